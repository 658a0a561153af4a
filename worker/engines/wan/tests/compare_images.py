"""What intake and the engine make of the same pictures.

    python tests/compare_images.py DIRECTORY

There lie the files that `fuzz_images.py` wrote and, in `intake/`, what intake stores of each (`NAME.png`) or why it
refuses it (`NAME.refused`). Ends with 1 where a sound picture is refused by either, where they see different pictures,
or where the engine does not take what intake stores, pixel for pixel. Of the damaged ones the differences are counted.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from spotreel_wan.contract import Refusal
from spotreel_wan.image import prepare

# Two decoders round differently, above all where they enlarge the colours of a JPEG.
MEAN, MOST = 2.0, 40


def engine(data: bytes, size: tuple[int, int]) -> Image.Image | Refusal:
    try:
        return prepare(data, *size)
    except Refusal as refused:
        return refused


def differences(path: Path, seen: Counter[tuple[str, str]]) -> list[str]:
    name, data = path.name, path.read_bytes()
    sound = not name.startswith("damaged")
    kind = "damaged" if not sound else "base" if name.startswith("base") else name.split("-")[2]
    stored, why = (path.parent / "intake" / f"{name}{end}" for end in (".png", ".refused"))
    seen[kind, "all"] += 1
    if why.exists():
        original = engine(data, (64, 64))
        taken = isinstance(original, Image.Image)
        seen[kind, "engine only" if taken else "neither"] += 1
        if taken:
            seen["why", why.read_text().strip()] += 1
        return [f"{name}: intake: {why.read_text()}"] if sound else []
    with Image.open(stored) as image:
        kept = np.asarray(image.convert("RGB")).astype(int)
    height, width, _ = kept.shape
    again = engine(stored.read_bytes(), (width, height))
    found = []
    if not isinstance(again, Image.Image) or not np.array_equal(np.asarray(again), kept):
        found.append(f"{name}: the engine does not take what intake stores: {again}")
    original = engine(data, (width, height))
    if not isinstance(original, Image.Image):
        seen[kind, "intake only"] += 1
        seen["intake only", str(original)] += 1
        return [*found, f"{name}: engine: {original}"] if sound else found
    seen[kind, "both"] += 1
    apart = np.abs(np.asarray(original).astype(int) - kept)
    if apart.mean() > MEAN or apart.max() > MOST:
        seen[kind, "apart"] += 1
        if sound and not name.startswith("taken"):
            found.append(f"{name}: {apart.mean():.2f} apart, {apart.max()} at most")
    return found


if __name__ == "__main__":
    seen: Counter[tuple[str, str]] = Counter()
    paths = sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_file())
    faults = [fault for path in paths for fault in differences(path, seen)]
    for (kind, what), count in sorted(seen.items()):
        print(f"{kind:16} {what:12} {count}")
    print(*faults[:50], sep="\n")
    print(f"{len(paths)} pictures, {len(faults)} faults")
    sys.exit(bool(faults))
