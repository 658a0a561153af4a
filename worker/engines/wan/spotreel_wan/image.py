"""The first frame: untrusted bytes in, a picture of exactly the task's size out."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path

from PIL import Image, ImageCms

from .container import strip
from .contract import Refusal

# As intake admits them.
MAX_BYTES = 20 << 20
MAX_PIXELS = 40_000_000
MAX_ASPECT = 4
FORMATS = ("JPEG", "PNG", "WEBP")
# How to lay a picture upright, by EXIF's number for how it lies.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read(path: Path) -> tuple[bytes, str]:
    """The bytes and their SHA-256."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        # The worker fetched the file, so a missing one says nothing about the task.
        message = f"cannot read the image {path}: {error.strerror}"
        raise Refusal("retryable", "image_unreadable", message) from error
    if len(data) > MAX_BYTES:
        raise Refusal("invalid", "image", f"the image has more than {MAX_BYTES >> 20} MiB")
    return data, hashlib.sha256(data).hexdigest()


def prepare(data: bytes, width: int, height: int) -> Image.Image:
    """Upright, sRGB, opaque; scaled until it covers the frame, and cut evenly, as Wan's own code does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            bare = strip(data)
            image = Image.open(io.BytesIO(bare.data), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise Refusal("invalid", "image", f"the image has more than {MAX_PIXELS} pixels")
            if max(image.size) > MAX_ASPECT * min(image.size):
                raise Refusal("invalid", "image", f"the image is more than {MAX_ASPECT} times as long as wide")
            image.load()
            image = _to_srgb(image, bare.profile)
            if bare.orientation in UPRIGHT:
                image = image.transpose(UPRIGHT[bare.orientation])
    except (Refusal, MemoryError):
        raise
    except Exception as error:  # Whatever a decoder makes of such bytes, it is their fault.
        raise Refusal("invalid", "image", f"the image cannot be decoded: {error}") from error
    return _cover(image, width, height)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Opaque as well: what is transparent lies on black."""
    coloured = image.mode in ("RGB", "RGBA", "P", "CMYK")
    if "A" in image.getbands() or "transparency" in image.info:
        flat = Image.new("RGBA", image.size, "black")
        flat.alpha_composite(image.convert("RGBA"))
        image = flat
    if image.mode != "CMYK":
        image = image.convert("RGB")
    if profile and coloured:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            image = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (OSError, ImageCms.PyCMSError):
            pass  # A broken profile is no profile.
    return image.convert("RGB")


def _cover(image: Image.Image, width: int, height: int) -> Image.Image:
    """In integers: the official code's floats make 832x464 of an 832x480 image."""
    if image.width * height >= image.height * width:
        scaled = max(width, -(-image.width * height // image.height)), height
    else:
        scaled = width, max(height, -(-image.height * width // image.width))
    image = image.resize(scaled, Image.Resampling.LANCZOS)
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    return image.crop((left, top, left + width, top + height))
