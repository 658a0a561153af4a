"""What is said of a video that is done."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import __version__
from .checkpoint import Maker
from .contract import Message
from .pack import hash_file
from .recipe import Recipe
from .shelf import Shelf


def metadata(made: Recipe, maker: Maker, shelf: Shelf) -> dict[str, Any]:
    parameters = asdict(made.task) | {"guidance_2": made.guidance_2, "image": made.image_sha256}
    # Known to whoever asked, and nobody else's business.
    del parameters["prompt"], parameters["negative_prompt"]
    parameters["loras"] = [
        {"name": lora.name, "sha256": lora.sha256, "strength": lora.strength, "expert": lora.expert}
        for lora in made.task.loras
    ]
    pack = {"sha256": shelf.pack.sha256, "source": shelf.pack.source, "license": shelf.pack.license}
    if (fast := made.fast) is not None:
        recipe = None if fast.recipe is None else asdict(fast.recipe)
        pack["fast"] = {fast.kind: made.distilled, "recipe": recipe, "source": fast.source, "license": fast.license}
    return {
        "engine": "wan",
        "engine_version": __version__,
        "device": shelf.device.name,
        "model": made.model.name,
        "pack": pack,
        "profile": shelf.profile.name,
        "solver": made.solver,
        "seed": made.task.seed,
        "parameters": parameters,
        "task_hash": made.task_hash,
        "class": maker.equivalence,
        "vram_peak": shelf.device.memory_peak(),
    }


def finished(meta: dict[str, Any], video: Path, poster: Path, timings: dict[str, float]) -> Message:
    (video.parent / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n")
    return {
        "type": "finished",
        "video": str(video),
        "poster": str(poster),
        "meta": meta,
        "bytes": video.stat().st_size,
        "sha256": hash_file(video),
        "timings": timings,
    }
