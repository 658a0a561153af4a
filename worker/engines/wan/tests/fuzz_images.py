"""Pictures whose pixels are sound and whose rest is not, by the thousand.

    python tests/fuzz_images.py COUNT [SEED]             of each kind
    python tests/fuzz_images.py COUNT SEED DIRECTORY     writes them instead, for intake: SPOTREEL_PICTURES=DIRECTORY
                                                         cargo nextest run -p spotreel-intake sound_pixels

Intake passes over what it does not read, so the engine has to take every one of the first three kinds and give the
picture that is in it. The files of intake's own fuzz corpus, damaged anywhere, are taken or refused as `invalid`.
"""

from __future__ import annotations

import random
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from pictures import encoded, gradient
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
PLAIN = {kind: encoded(gradient(*SIDES), kind) for kind in ("JPEG", "PNG", "WEBP")}
LONG_TEXT = zlib.compress(bytes(3_000_000))
BEGINNINGS = (
    b"JFIF\0",
    b"JFXX\0",
    b"Adobe\0",
    b"MPF\0II*\0\x08\0\0\0",
    b"MPF\0",
    b"ICC_PROFILE\0",
    b"ICC_PROFILE\0\1\1",
    b"ICC_PROFILE\0\2\1",
    b"Photoshop 3.0\0",
    b"Photoshop 3.0\x008BIM\x03\xed",
    b"http://ns.adobe.com/xap/1.0/\0<",
    b"FPXR\0",
    b"",
)
PNG_NAMES = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tIME", b"bKGD", b"hIST", b"sBIT")
WEBP_NAMES = (b"XMP ", b"ICCP", b"ABCD", b"ALPH", b"exif")

Case = tuple[bytes, int]


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


def webp(*chunks: tuple[bytes, bytes]) -> bytes:
    """The plain picture with these beside it."""
    flags = 0x08 if any(name == b"EXIF" for name, _ in chunks) else 0
    canvas = struct.pack("<II", flags, SIDES[0] - 1)[:7] + struct.pack("<I", SIDES[1] - 1)[:3]
    body = b"WEBP"
    for name, chunk in ((b"VP8X", canvas), *chunks):
        body += name + struct.pack("<I", len(chunk)) + chunk + bytes(len(chunk) % 2)
    body += PLAIN["WEBP"][12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_with(more: bytes) -> bytes:
    return PLAIN["JPEG"][:2] + more + PLAIN["JPEG"][2:]


def png_with(more: bytes) -> bytes:
    return PLAIN["PNG"][:33] + more + PLAIN["PNG"][33:]


def camera_data(rng: random.Random) -> Iterator[Case]:
    while True:
        turn = rng.randint(1, 8)
        block = exif(rng, turn)
        yield jpeg_with(segment(0xE1, b"Exif\0\0" + block)), turn
        yield png_with(png_chunk(b"eXIf", block)), turn
        yield webp((b"EXIF", block)), turn


def no_camera_data(rng: random.Random) -> Iterator[Case]:
    """Blocks that are none, so the picture lies as it lies."""
    while True:
        block = exif(rng, 6)
        block = rng.choice([block[: rng.randint(0, 17)], rng.randbytes(rng.randint(0, 60))])
        yield jpeg_with(segment(0xE1, b"Exif\0\0" + block)), 1
        yield png_with(png_chunk(b"eXIf", block)), 1
        yield webp((b"EXIF", block)), 1


def others(rng: random.Random) -> Iterator[Case]:
    """Texts, profiles, thumbnails, unknown parts."""
    while True:
        parts = b"".join(
            segment(rng.choice([*range(0xE0, 0xF0), 0xFE]), rng.choice(BEGINNINGS) + rng.randbytes(rng.randint(0, 6)))
            for _ in range(rng.randint(1, 4))
        )
        yield jpeg_with(parts), 1
        chunks = b""
        for _ in range(rng.randint(1, 4)):
            name, body = rng.choice(PNG_NAMES), rng.randbytes(rng.randint(0, 40))
            if rng.random() < 0.3:
                body = b"key\0\0" + rng.choice([LONG_TEXT, zlib.compress(body), body])
            chunks += png_chunk(name, body, rng.random() < 0.8)
        yield png_with(chunks), 1
        yield webp(*((rng.choice(WEBP_NAMES), rng.randbytes(rng.randint(0, 40))) for _ in range(rng.randint(1, 4)))), 1


def damaged(rng: random.Random) -> Iterator[bytes]:
    files = [path.read_bytes() for path in sorted(CORPUS.iterdir())]
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
    for kind, data in PLAIN.items():
        upright = prepare(data, *SIDES)
        plain[kind] = {1: upright} | {turn: upright.transpose(how) for turn, how in TURNS.items()}
    for number, (data, turn) in zip(range(count), cases(random.Random(seed))):
        wanted = plain[("JPEG", "PNG", "WEBP")[number % 3]][turn]
        try:
            found = prepare(data, *wanted.size)
        except Exception as error:
            raise AssertionError(f"{cases.__name__} {number} of seed {seed}: {error!r}") from error
        assert np.array_equal(np.asarray(found), np.asarray(wanted)), f"{cases.__name__} {number} of seed {seed}"
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
    """The name says how the picture lies; of each format there is one with nothing beside the pixels."""
    for kind, data in PLAIN.items():
        (directory / f"sound-1-plain.{kind.lower()}").write_bytes(data)
    for cases in (camera_data, no_camera_data, others):
        for number, (data, turn) in zip(range(count), cases(random.Random(seed))):
            kind = ("jpeg", "png", "webp")[number % 3]
            (directory / f"sound-{turn}-{cases.__name__}-{number}.{kind}").write_bytes(data)
    for number, data in zip(range(count), damaged(random.Random(seed))):
        (directory / f"damaged-{number}").write_bytes(data)


if __name__ == "__main__" and len(sys.argv) > 3:
    write(Path(sys.argv[3]), int(sys.argv[1]), int(sys.argv[2]))
elif __name__ == "__main__":
    how_many, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    for made in (camera_data, no_camera_data, others):
        print(made.__name__, check_taken(made, how_many, first), "taken", flush=True)
    print("damaged", dict(check_survived(how_many, first)))
