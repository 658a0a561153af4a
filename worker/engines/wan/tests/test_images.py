"""Images as people have them, and as attackers make them. What intake passes, the engine takes."""

import random
import zlib

import numpy as np
import pytest
from PIL import Image

import fuzz_images
from fuzz_images import BEGINNINGS, LONG_TEXT, PLAIN, SIDES, TURNS, exif, jpeg_with, png_chunk, png_with, segment, webp
from pictures import encoded, gradient
from spotreel_wan import container
from spotreel_wan.contract import Refusal
from spotreel_wan.image import prepare

# Of each kind; the documentation has the counts of a long run.
CASES = 1500


def pixels(data, size=SIDES):
    return np.asarray(prepare(data, *size)).astype(int)


@pytest.mark.parametrize("cases", fuzz_images.SOUND)
def test_whatever_stands_beside_sound_pixels_the_picture_is_taken_and_upright(cases):
    assert fuzz_images.check_taken(cases, CASES) == CASES


def test_whatever_is_damaged_is_a_picture_or_invalid():
    seen = fuzz_images.check_survived(CASES)
    assert seen["taken"] > CASES // 10
    assert seen["refused"] > CASES // 10


def test_long_texts_and_wrong_checksums_beside_the_picture_are_passed_over():
    sound = pixels(PLAIN["PNG"])
    for more in (
        png_chunk(b"zTXt", b"key\0\0" + LONG_TEXT),
        png_chunk(b"iTXt", b"key\0\1\0\0\0" + LONG_TEXT),
        png_chunk(b"tEXt", b"key\0" + bytes(2_000_000)),
        png_chunk(b"iCCP", b"key\0\0" + LONG_TEXT),
        *(png_chunk(name, b"key\0\0", sound=False) for name in (b"tEXt", b"iCCP", b"eXIf", b"tRNS", b"pHYs")),
        *(png_chunk(name, b"") for name in (b"tEXt", b"iCCP", b"eXIf", b"tRNS", b"pHYs", b"gAMA", b"cHRM", b"PLTE")),
    ):
        assert np.array_equal(pixels(png_with(more)), sound), more[:40]


def test_a_wrong_checksum_in_the_picture_itself_is_damage():
    at = PLAIN["PNG"].index(b"IDAT") + 20
    with pytest.raises(Refusal) as refused:
        prepare(PLAIN["PNG"][:at] + bytes([PLAIN["PNG"][at] ^ 1]) + PLAIN["PNG"][at + 1 :], *SIDES)
    assert (refused.value.kind, refused.value.code) == ("invalid", "image")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_long_colour_profile_is_applied(kind):
    """Longer than Pillow takes from a PNG."""
    profile = bytearray(fuzz_images.swapped())
    profile += bytes(2_000_000 - len(profile))
    profile[:4] = len(profile).to_bytes(4, "big")
    data = encoded(gradient(*SIDES), kind, icc_profile=bytes(profile))
    bare = container.strip(data)
    assert bare.profile == bytes(profile)
    assert np.abs(pixels(data) - pixels(PLAIN[kind])[:, :, ::-1]).max() <= 8


def test_every_orientation_is_read_from_every_container():
    for turn in range(1, 9):
        block = Image.Exif()
        block[0x0112] = turn
        for kind, plain in PLAIN.items():
            upright = prepare(plain, *SIDES)
            wanted = upright if turn == 1 else upright.transpose(TURNS[turn])
            data = encoded(gradient(*SIDES), kind, exif=block)
            assert np.array_equal(pixels(data, wanted.size), np.asarray(wanted)), (kind, turn)


def test_a_profile_packed_in_a_way_that_nobody_knows_is_none():
    packed = zlib.compress(fuzz_images.swapped())
    sound = pixels(PLAIN["PNG"])
    for method, wanted in ((b"\0", sound[:, :, ::-1]), (b"\1", sound)):
        found = pixels(png_with(png_chunk(b"iCCP", b"key\0" + method + packed)))
        assert np.abs(found - wanted).max() <= 8, method


def test_a_short_jfif_segment_says_nothing_of_the_colours():
    """RGB by Adobe's segment, which a JFIF would overrule."""
    sound = pixels(fuzz_images.BASES["rgb.jpeg"])
    for body in (b"JFIF\0\1\1\0\0\1\0\1\0", b"JFIF\0"):
        assert np.array_equal(pixels(jpeg_with(segment(0xE0, body), "rgb.jpeg")), sound)
    assert not np.array_equal(pixels(jpeg_with(segment(0xE0, container.JFIF), "rgb.jpeg")), sound)


def test_what_stands_between_and_behind_the_scans_of_a_jpeg_is_passed_over():
    data = fuzz_images.BASES["progressive.jpeg"]
    sound = pixels(data)
    scans = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]
    for at in (*scans, len(data) - 2):
        for more in (b"\xff\x3b\0\3?", segment(0xEE, b"Adobe"), segment(0xE0, b"JFIF\0")):
            assert np.array_equal(pixels(data[:at] + more + data[at:]), sound), (at, more)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_survives_what_is_stripped(kind):
    clear = gradient(*SIDES).convert("RGBA")
    clear.putalpha(0)
    options = {"exif": Image.Exif()} if kind == "PNG" else {"exif": b"Exif\0\0II*\0", "quality": 80}
    assert pixels(encoded(clear, kind, **options)).max() == 0
    for mode, colour in (("L", 9), ("RGB", (9, 9, 9)), ("P", 9)):
        one = Image.new("RGB" if mode == "RGB" else "L", SIDES, colour).convert(mode)
        transparent = one.getpixel((0, 0)) if mode == "P" else colour
        assert pixels(encoded(one, "PNG", transparency=transparent)).max() == 0, mode


def test_the_decoder_is_shown_nothing_but_the_picture():
    block = exif(random.Random(0), 6)
    for data in (
        jpeg_with(segment(0xE1, b"Exif\0\0" + block) + b"".join(segment(0xE2, start) for start in BEGINNINGS)),
        png_with(png_chunk(b"eXIf", block) + png_chunk(b"tEXt", b"secret\0secret")),
        webp((b"EXIF", block), (b"XMP ", b"secret")),
    ):
        bare = container.strip(data)
        assert bare.orientation == 6
        assert len(bare.data) <= len(data) - len(block)
        assert not any(word in bare.data for word in (b"Exif", b"EXIF", b"eXIf", b"MPF", b"secret", block))
