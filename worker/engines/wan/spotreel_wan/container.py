"""A picture's file, rebuilt of what its pixels need. Decoders parse texts, camera data and thumbnails as well, and fail
at oddities there that intake passes over: they are never shown them. Of the rest only the orientation and the colour
profile are read."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

PNG = b"\x89PNG\r\n\x1a\n"
# A few kilobytes are usual, two megabytes the largest known. A longer one counts as none.
MAX_PROFILE = 16 << 20
ORIENTATION = 0x0112
SHORT = 3
# SOF0 to SOF2, DHT, SOS, DQT, DRI: what a scan is decoded with.
JPEG_DECODED = (0xC0, 0xC1, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD)
# In a scan 0xFF is followed by 0 or a restart.
JPEG_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
# It stands alone, without a length.
TEM = 0x01
SOS, EOI, APP0, APP1, APP2, APP14 = 0xDA, 0xD9, 0xE0, 0xE1, 0xE2, 0xEE
# Says that the colours are YCbCr; its thumbnail is left out.
JFIF = b"JFIF\0\1\1\0\0\1\0\1\0\0"
# libjpeg takes shorter ones for none.
JFIF_BYTES, ADOBE_BYTES = 14, 12
# How many samples a transparent colour has, by the colour type; a palette has as many as it likes.
PNG_SAMPLES = {0: 1, 2: 3}
PNG_PALETTE = 3
# The method by which a PNG's profile is packed.
DEFLATE = 0
WEBP_ALPHA = 0x10


@dataclass(frozen=True)
class Bare:
    """A file that a decoder may see."""

    data: bytes
    # As in EXIF: 1 is upright.
    orientation: int
    # ICC, unchecked.
    profile: bytes | None


def strip(data: bytes) -> Bare:
    """Raises ValueError for what is no JPEG, PNG or WebP, or ends too early. It does not look at the pixels."""
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data.startswith(PNG):
            return _png(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError) as error:
        raise ValueError("the file breaks off before its end") from error
    raise ValueError("the file is neither JPEG, PNG nor WebP")


def orientation(exif: bytes) -> int | None:
    """Of the first directory, as intake reads it; None where nothing can be read."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    try:
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, at)
        for number in range(entries):
            tag, kind, count, value, _ = struct.unpack_from(f"{order}HHIHH", exif, at + 2 + 12 * number)
            if (tag, kind, count) == (ORIENTATION, SHORT, 1):
                return value if 1 <= value <= 8 else None
    except struct.error:
        pass
    return None


def _jpeg(data: bytes) -> Bare:
    kept, profile, upright = [data[:2]], [], None
    at, scanned = 2, False
    while True:
        # Stray bytes are passed over, as decoders do; after a scan's head they are the scan.
        found = JPEG_MARKER.search(data, at)
        if not found:
            raise IndexError
        if scanned:
            kept.append(data[at : found.start()])
        marker, at = data[found.end() - 1], found.end()
        scanned = marker == SOS
        if marker == EOI:
            return Bare(b"".join([*kept, b"\xff\xd9"]), upright or 1, _joined(profile))
        if marker == TEM:
            continue
        (length,) = struct.unpack_from(">H", data, at)
        segment, at = data[at + 2 : at + length], at + max(length, 2)
        if marker == APP0 and segment.startswith(b"JFIF\0") and len(segment) >= JFIF_BYTES:
            kept.append(_segment(APP0, JFIF))
        elif marker == APP14 and segment.startswith(b"Adobe") and len(segment) >= ADOBE_BYTES:
            kept.append(_segment(APP14, segment[:ADOBE_BYTES]))
        elif marker == APP1 and segment.startswith(b"Exif\0\0"):
            upright = upright or orientation(segment)
        elif marker == APP2 and segment.startswith(b"ICC_PROFILE\0"):
            profile.append(segment[12:])
        elif marker in JPEG_DECODED:
            kept.append(_segment(marker, segment))


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _joined(parts: list[bytes]) -> bytes | None:
    """A long profile is spread over segments, each with its number and how many there are."""
    parts = sorted(part for part in parts if len(part) > 2)
    if not parts or [part[0] for part in parts] != list(range(1, parts[0][1] + 1)):
        return None
    return b"".join(part[2:] for part in parts)


def _png(data: bytes) -> Bare:
    kept, profile, upright = [PNG], None, None
    colours, palette, transparent, pixels = -1, False, False, False
    for name, body, whole in _png_chunks(data):
        # A wrong checksum spoils what the picture can do without, and nothing else.
        sound = zlib.crc32(whole[4:-4]) == struct.unpack(">I", whole[-4:])[0]
        if name == b"IHDR":
            colours = body[9]
            kept.append(whole)
        elif name in (b"IDAT", b"IEND"):
            pixels = True
            kept.append(whole)
        elif name == b"PLTE" and colours == PNG_PALETTE:
            palette = True
            kept.append(whole)
        elif pixels or not sound:
            continue
        elif name == b"tRNS" and not transparent and (palette or len(body) >= 2 * PNG_SAMPLES.get(colours, len(data))):
            transparent = True
            kept.append(_chunk(name, body[: 2 * PNG_SAMPLES.get(colours, 128)]))
        elif name == b"iCCP" and profile is None:
            profile = _inflated(body)
        elif name == b"eXIf":
            upright = upright or orientation(body)
    return Bare(b"".join(kept), upright or 1, profile)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Name, body and the whole of each, up to the last."""
    at, name = len(PNG), b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, at)
        whole = data[at : at + length + 12]
        if len(whole) < length + 12:
            raise IndexError
        yield name, whole[8:-4], whole
        at += len(whole)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _inflated(body: bytes) -> bytes | None:
    """After a name stands the method; there is but one."""
    _, _, packed = body.partition(b"\0")
    inflate = zlib.decompressobj()
    try:
        profile = inflate.decompress(packed[1:], MAX_PROFILE)
    except zlib.error:
        return None
    return profile if inflate.eof and packed[0] == DEFLATE else None


def _webp(data: bytes) -> Bare:
    (length,) = struct.unpack_from("<I", data, 4)
    if len(data) < length + 8:
        raise IndexError
    found: dict[bytes, bytes] = {}
    at = 12
    while at < length + 8:
        name, size = struct.unpack_from("<4sI", data, at)
        body = data[at + 8 : at + 8 + size]
        if len(body) < size:
            raise IndexError
        found.setdefault(name, body)
        at += 8 + size + size % 2
    kept = {name: found[name] for name in (b"VP8 ", b"VP8L") if name in found}
    canvas = found.get(b"VP8X", b"")
    # Only the lossy kind has its transparency apart.
    if b"VP8 " in kept and b"ALPH" in found and canvas and canvas[0] & WEBP_ALPHA:
        kept = {b"VP8X": bytes([WEBP_ALPHA, 0, 0, 0]) + canvas[4:10], b"ALPH": found[b"ALPH"]} | kept
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(chunk)) + chunk + bytes(len(chunk) % 2) for name, chunk in kept.items()
    )
    upright = orientation(found.get(b"EXIF", b""))
    return Bare(b"RIFF" + struct.pack("<I", len(body)) + body, upright or 1, found.get(b"ICCP"))
