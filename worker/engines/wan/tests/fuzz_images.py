"""Pictures whose pixels are sound and whose rest is not, by the thousand.

    python tests/fuzz_images.py COUNT [SEED]             of each kind, through the engine
    python tests/fuzz_images.py COUNT SEED DIRECTORY     writes them instead, for intake and the engine

`make fuzz-pictures` has both take the same files and compares what they make of them (`compare_images.py`).

Intake passes over what it does not read, so the engine has to take all of them but the damaged ones, and give the
picture that is in them. The files of intake's own fuzz corpus, damaged anywhere, are taken or refused as `invalid`.
"""

from __future__ import annotations

import random
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

from pictures import encoded, gradient, interlaced
from spotreel_wan.contract import Refusal
from spotreel_wan.image import prepare

CORPUS = Path(__file__).resolve().parents[4] / "tests" / "fuzz" / "corpus" / "images"
SIDES = (160, 128)
ORIENTATION = 0x0112
TAGS = (0x10E, 0x10F, 0x11A, 0x128, 0x132, 0x213, 0x8298, 0x8769, 0x8825, 0xA005, 0x927C, 0x9286, 0x14A, 0x2BC, 0xC4A5)
TYPES = (*range(14), 16, 99)
COUNTS = (0, 1, 2, 3, 4, 5, 8, 100, 2**31)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _bases() -> dict[str, bytes]:
    """One picture in the forms that files of it have."""
    plain = gradient(*SIDES)
    clear = plain.convert("RGBA")
    clear.putalpha(gradient(*SIDES).convert("L"))
    palette = plain.quantize(64)
    return {
        "plain.jpeg": encoded(plain, "JPEG"),
        "fine.jpeg": encoded(plain, "JPEG", quality=95, subsampling="4:4:4"),
        "progressive.jpeg": encoded(plain, "JPEG", progressive=True),
        "restarts.jpeg": encoded(plain, "JPEG", restart_marker_blocks=3),
        "grey.jpeg": encoded(plain.convert("L"), "JPEG"),
        "rgb.jpeg": encoded(plain, "JPEG", keep_rgb=True, quality=90),
        "plain.png": encoded(plain),
        "interlaced.png": interlaced(plain),
        "grey.png": encoded(plain.convert("L")),
        "bilevel.png": encoded(plain.convert("1")),
        "palette.png": encoded(palette),
        "transparent_palette.png": encoded(palette, transparency=bytes(range(0, 256, 4))),
        "transparent_colour.png": encoded(plain, transparency=plain.getpixel((5, 5))),
        "alpha.png": encoded(clear),
        "grey_alpha.png": encoded(clear.convert("LA")),
        "plain.webp": encoded(plain, "WEBP"),
        "lossless.webp": encoded(plain, "WEBP", lossless=True),
        "alpha.webp": encoded(clear, "WEBP", exif=b"II*\0"),
        "lossless_alpha.webp": encoded(clear, "WEBP", lossless=True),
    }


BASES = _bases()
KINDS = ("jpeg", "png", "webp")
NAMES = {kind: [name for name in BASES if name.endswith(kind)] for kind in KINDS}
PLAIN = {kind.upper(): BASES[f"plain.{kind}"] for kind in KINDS}
LONG_TEXT = zlib.compress(bytes(3_000_000))
BEGINNINGS = (
    b"JFIF\0",
    b"JFXX\0",
    b"Adobe",
    b"MPF\0II*\0\x08\0\0\0",
    b"MPF\0",
    b"ICC_PROFILE\0",
    b"ICC_PROFILE\0\1\1",
    b"ICC_PROFILE\0\2\1",
    b"Photoshop 3.0\0",
    b"Photoshop 3.0\x008BIM\x03\xed",
    b"http://ns.adobe.com/xap/1.0/\0<",
    b"http://ns.adobe.com/xmp/extension/\0",
    b"urn:iso:std:iso:ts:21496:-1\0",
    b"FPXR\0",
    b"",
)
PNG_NAMES = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tIME", b"bKGD", b"hIST", b"sBIT")
WEBP_NAMES = (b"XMP ", b"ICCP", b"ABCD", b"exif")
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped() -> bytes:
    """A profile that changes the picture: blue and red change places."""
    profile = bytearray(PROFILE)
    red, blue = (profile.index(tag, 128) for tag in (b"rXYZ", b"bXYZ"))
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


class Case(NamedTuple):
    data: bytes
    base: str
    turn: int = 1
    # What both sides must say: that it is the picture of its base (`sound`), the same as the other (`alike`), or just a
    # picture (`taken`).
    verdict: str = "sound"


def exif(rng: random.Random, turn: int) -> bytes:
    """One entry says how the picture lies; the others are of any kind."""
    order = rng.choice("<>")
    entries = [(ORIENTATION, 3, 1, struct.pack(f"{order}HH", turn, 0))]
    for _ in range(rng.randint(0, 4)):
        tag = rng.choice([*TAGS, rng.randint(ORIENTATION + 1, 65535)])
        value = rng.randbytes(4) if rng.random() < 0.5 else struct.pack(f"{order}I", rng.choice([8, 10, 26, 60, 0]))
        entries.append((tag, rng.choice(TYPES), rng.choice(COUNTS), value))
    body = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in sorted(entries):
        body += struct.pack(f"{order}HHI", tag, kind, count) + value
    following = struct.pack(f"{order}I", rng.choice([0, 8, rng.randint(0, 300)]))
    magic = b"II*\0\x08\0\0\0" if order == "<" else b"MM\0*\0\0\0\x08"
    return magic + body + following + rng.randbytes(rng.randint(0, 200))


def png_chunk(name: bytes, body: bytes, sound: bool = True) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body) ^ (not sound))


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def webp_chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def webp(*chunks: tuple[bytes, bytes], base: str = "plain.webp", after: bool = False) -> bytes:
    """The picture with these beside it."""
    canvas = struct.pack("<II", 0, SIDES[0] - 1)[:7] + struct.pack("<I", SIDES[1] - 1)[:3]
    picture = BASES[base][12:]
    if picture.startswith(b"VP8X"):
        canvas, picture = picture[8:18], picture[18:]
    flags = 0x08 if any(name == b"EXIF" for name, _ in chunks) else 0
    head = webp_chunk(b"VP8X", bytes([canvas[0] & 0x10 | flags]) + canvas[1:])
    # Another file's camera data may be there already.
    picture = picture.partition(b"EXIF")[0]
    more = b"".join(webp_chunk(*chunk) for chunk in chunks)
    body = b"WEBP" + head + (picture + more if after else more + picture)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_with(more: bytes, base: str = "plain.jpeg") -> bytes:
    return BASES[base][:2] + more + BASES[base][2:]


def png_with(more: bytes, base: str = "plain.png") -> bytes:
    return BASES[base][:33] + more + BASES[base][33:]


def camera_data(rng: random.Random) -> Iterator[Case]:
    while True:
        turn = rng.randint(1, 8)
        block = exif(rng, turn)
        jpeg, png, web = (rng.choice(NAMES[kind]) for kind in KINDS)
        yield Case(jpeg_with(segment(0xE1, b"Exif\0\0" + block), jpeg), jpeg, turn)
        yield Case(png_with(png_chunk(b"eXIf", block), png), png, turn)
        yield Case(webp((b"EXIF", block), base=web, after=rng.random() < 0.5), web, turn)


def no_camera_data(rng: random.Random) -> Iterator[Case]:
    """Blocks that are none, so the picture lies as it lies."""
    while True:
        block = exif(rng, 6)
        block = rng.choice([block[: rng.randint(0, 17)], rng.randbytes(rng.randint(0, 60))])
        jpeg, png, web = (rng.choice(NAMES[kind]) for kind in KINDS)
        yield Case(jpeg_with(segment(0xE1, b"Exif\0\0" + block), jpeg), jpeg)
        yield Case(png_with(png_chunk(b"eXIf", block), png), png)
        yield Case(webp((b"EXIF", block), base=web), web)


def others(rng: random.Random) -> Iterator[Case]:
    """Texts, profiles, thumbnails, unknown parts."""
    while True:
        jpeg, png, web = (rng.choice(NAMES[kind]) for kind in KINDS)
        parts = b"".join(
            segment(rng.choice([*range(0xE0, 0xF0), 0xFE]), rng.choice(BEGINNINGS) + rng.randbytes(rng.randint(0, 6)))
            for _ in range(rng.randint(1, 4))
        )
        yield Case(jpeg_with(parts, jpeg), jpeg)
        chunks = b""
        for _ in range(rng.randint(1, 4)):
            name, body = rng.choice(PNG_NAMES), rng.randbytes(rng.randint(0, 40))
            if rng.random() < 0.3:
                body = b"key\0\0" + rng.choice([LONG_TEXT, zlib.compress(body), body])
            chunks += png_chunk(name, body, rng.random() < 0.8)
        yield Case(png_with(chunks, png), png)
        added = [(rng.choice(WEBP_NAMES), rng.randbytes(rng.randint(0, 40))) for _ in range(rng.randint(1, 4))]
        yield Case(webp(*added, base=web, after=rng.random() < 0.5), web)


def bad_parts(rng: random.Random) -> Iterator[Case]:
    """Lengths that cannot be, stray bytes, parts in the wrong place, what must not stand there at all."""
    while True:
        jpeg, png, web = (rng.choice(NAMES[kind]) for kind in KINDS)
        app = rng.choice([*range(0xE1, 0xEE), 0xEF, 0xFE, 0xF0, 0x02, 0xDC, 0xCC])
        parts = rng.choice(
            (
                struct.pack(">BBH", 0xFF, app, rng.randint(0, 2)),
                rng.randbytes(rng.randint(1, 9)).replace(b"\xff", b"\0"),
                b"\xff" * rng.randint(1, 9),
                b"\xff\x01",
                segment(app, rng.randbytes(rng.randint(0, 20))),
                segment(app, bytes(65533)),
            )
        )
        yield Case(rng.choice(_gaps(BASES[jpeg], parts)), jpeg)
        more = png_chunk(rng.choice((b"tEXt", b"teSt", b"TEST", b"sPLT", b"eXIf", b"iCCP")), rng.randbytes(4))
        yield Case(rng.choice(_png_gaps(png, more)), png)
        name = rng.choice((b"XMP ", b"ABCD", b"EXIF", b"ICCP", b"\0\0\0\0"))
        data = webp((name, rng.randbytes(rng.randint(0, 9))), base=web, after=rng.random() < 0.5)
        yield Case(data + rng.randbytes(rng.choice((0, 1, 7))), web)


def _gaps(jpeg: bytes, more: bytes) -> list[bytes]:
    """With more in front of each segment up to the first scan. Without a marker at its beginning it is no JPEG."""
    gaps, at = [], 2
    while True:
        if at > 2 or more.startswith(b"\xff"):
            gaps.append(jpeg[:at] + more + jpeg[at:])
        if jpeg[at + 1] == 0xDA:
            return gaps
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4])


def _png_gaps(base: str, more: bytes) -> list[bytes]:
    """In front of each chunk but the header; the pixels are cut in two, with more between the halves."""
    png, at, chunks = BASES[base], 33, []
    while at < len(png):
        length = int.from_bytes(png[at : at + 4])
        name, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        bodies = (body[: length // 2], body[length // 2 :]) if name == b"IDAT" else (body,)
        chunks += [png_chunk(name, part) for part in bodies]
        at += length + 12
    return [png[:33] + b"".join([*chunks[:gap], more, *chunks[gap:]]) for gap in range(len(chunks))]


def colours(rng: random.Random) -> Iterator[Case]:
    """What says how a JPEG's components are to be seen, whole and in part."""
    while True:
        base = rng.choice(("plain.jpeg", "fine.jpeg", "progressive.jpeg", "grey.jpeg", "rgb.jpeg"))
        jpeg = BASES[base]
        if rng.random() < 0.5 and jpeg[3] == 0xE0:
            jpeg = jpeg[:2] + jpeg[20:]
        parts = b""
        for _ in range(rng.randint(1, 2)):
            jfif = b"JFIF\0\1\1\0\0\1\0\1\0\0"[: rng.choice((14, 14, 13, 5))]
            adobe = (b"Adobe\0\x64\0\0\0\0" + bytes([rng.choice((0, 1, 2, 3, 255))]))[: rng.choice((12, 12, 11, 5))]
            parts += rng.choice((segment(0xE0, jfif), segment(0xEE, adobe)))
        yield Case(jpeg[:2] + parts + jpeg[2:], base, verdict="alike")


def profiles(rng: random.Random) -> Iterator[Case]:
    """Sound ones, in parts in any order, and ones with faults."""
    while True:
        profile = bytearray(rng.choice((PROFILE, swapped())))
        changes = rng.choice((0, 0, 1, 8))
        for _ in range(changes):
            profile[rng.randrange(len(profile))] = rng.randrange(256)
        verdict = "taken" if changes else "alike"
        if rng.random() < 0.2:
            del profile[rng.randrange(len(profile)) :]
        jpeg, png, web = (rng.choice(NAMES[kind]) for kind in KINDS)
        count = rng.randint(1, 5)
        size = -(-len(profile) // count)
        parts = [
            segment(0xE2, b"ICC_PROFILE\0" + bytes([at + 1, count]) + profile[at * size : (at + 1) * size])
            for at in range(count)
        ]
        rng.shuffle(parts)
        if rng.random() < 0.2:
            parts[0] = rng.choice((b"", parts[-1], parts[0][:18] + b"\0" + parts[0][19:]))
        yield Case(jpeg_with(b"".join(parts), jpeg), jpeg, verdict=verdict)
        body = b"key\0" + rng.choice((b"\0", b"\0", b"\1")) + zlib.compress(profile)
        yield Case(png_with(png_chunk(b"iCCP", body, rng.random() < 0.9), png), png, verdict=verdict)
        yield Case(webp((b"ICCP", bytes(profile)), base=web), web, verdict=verdict)


SOUND: tuple[Callable[[random.Random], Iterator[Case]], ...] = (
    camera_data,
    no_camera_data,
    others,
    bad_parts,
    colours,
    profiles,
)


def damaged(rng: random.Random) -> Iterator[bytes]:
    files = [path.read_bytes() for path in sorted(CORPUS.iterdir())] + list(BASES.values())
    while True:
        data = bytearray(rng.choice(files))
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(data) + 1)
            match rng.randrange(4):
                case 0:
                    data[at:at] = rng.randbytes(rng.randint(1, 8))
                case 1:
                    del data[at : at + rng.randint(1, 8)]
                case _:
                    data[at : at + 1] = rng.randbytes(1)
        yield bytes(data)


def check_taken(cases: Callable[[random.Random], Iterator[Case]], count: int, seed: int = 0) -> int:
    """How many, all of which gave the picture that is in them."""
    plain = {}
    for base, data in BASES.items():
        upright = prepare(data, *SIDES)
        plain[base] = {1: upright} | {turn: upright.transpose(how) for turn, how in TURNS.items()}
    for number, case in zip(range(count), cases(random.Random(seed))):
        wanted = plain[case.base][case.turn]
        where = f"{cases.__name__} {number} of seed {seed}, {case.base}"
        try:
            found = prepare(case.data, *wanted.size)
        except Exception as error:
            raise AssertionError(f"{where}: {error!r}") from error
        assert case.verdict != "sound" or np.array_equal(np.asarray(found), np.asarray(wanted)), where
    return count


def check_survived(count: int, seed: int = 0) -> Counter[str]:
    """How many were taken, and how many refused."""
    seen: Counter[str] = Counter()
    for number, data in zip(range(count), damaged(random.Random(seed))):
        try:
            assert prepare(data, 64, 64).size == (64, 64)
            seen["taken"] += 1
        except Refusal as refused:
            assert (refused.kind, refused.code) == ("invalid", "image")
            seen["refused"] += 1
        except Exception as error:
            raise AssertionError(f"damaged {number} of seed {seed}: {error!r}") from error
    return seen


def write(directory: Path, count: int, seed: int) -> None:
    """A name says the verdict, how the picture lies, what was done and to which base:
    `sound-6-camera_data-12-plain.jpeg`."""
    for base, data in BASES.items():
        (directory / f"base-{base}").write_bytes(data)
    for cases in SOUND:
        for number, case in zip(range(count), cases(random.Random(seed))):
            name = f"{case.verdict}-{case.turn}-{cases.__name__}-{number}-{case.base}"
            (directory / name).write_bytes(case.data)
    for number, data in zip(range(count), damaged(random.Random(seed))):
        (directory / f"damaged-{number}").write_bytes(data)


if __name__ == "__main__" and len(sys.argv) > 3:
    write(Path(sys.argv[3]), int(sys.argv[1]), int(sys.argv[2]))
elif __name__ == "__main__":
    how_many, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    for made in SOUND:
        print(made.__name__, check_taken(made, how_many, first), "taken", flush=True)
    print("damaged", dict(check_survived(how_many, first)))
