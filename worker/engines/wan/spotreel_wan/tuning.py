"""What may be switched on for speed. All of it is in the equivalence class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffusers import FirstBlockCacheConfig
from diffusers.models.attention_dispatch import AttentionBackendName

from .precision import PRECISIONS, widen

DEFAULT_ATTENTION = "native"
FIRST_BLOCK = "first-block"
# diffusers' own default.
THRESHOLD = 0.05
# Those with this in their name fetch their kernels from the hub.
FETCHING = "hub"


@dataclass(frozen=True)
class Tuning:
    # diffusers' name of a backend.
    attention: str = DEFAULT_ATTENTION
    # Blocks by torch.compile.
    compile: bool = False
    # Leave all blocks but the first out of a step in which that one hardly changed; by how much, relatively.
    cache: float | None = None
    # What is kept in float32: as in diffusers, or as in the authors' code.
    precision: str = PRECISIONS[0]

    def apply(self, part: Any) -> None:
        """To an expert that was just loaded."""
        if self.attention != DEFAULT_ATTENTION:
            part.set_attention_backend(self.attention)
        if self.precision == "authors":
            widen(part)
        if self.compile:
            part.compile_repeated_blocks()
        if self.cache is not None:
            part.enable_cache(FirstBlockCacheConfig(threshold=self.cache))

    def forget(self, part: Any) -> None:
        """What the steps before have left."""
        if self.cache is not None:
            part._reset_stateful_cache()

    def words(self, every_steps: int) -> dict[str, str]:
        """For the class. A cache begins anew at every checkpoint, so their distance decides the picture."""
        cache = "off" if self.cache is None else f"{FIRST_BLOCK}={self.cache} every {every_steps}"
        return {
            "attention": self.attention,
            "compile": "on" if self.compile else "off",
            "caches": cache,
            "precision": self.precision,
        }


def tuning(attention: str, compile: bool, cache: str, precision: str = PRECISIONS[0]) -> Tuning:
    """From the command line."""
    backends = sorted(backend.value for backend in AttentionBackendName if FETCHING not in backend.value)
    if attention not in backends:
        raise SystemExit(f"--attention {attention}: unknown, or fetched from a hub; there are {', '.join(backends)}")
    return Tuning(attention, compile, _threshold(cache), precision)


def _threshold(cache: str) -> float | None:
    name, _, value = cache.partition("=")
    try:
        threshold = float(value) if value else THRESHOLD
    except ValueError:
        threshold = -1.0
    if cache == "off":
        return None
    if name != FIRST_BLOCK or not 0 < threshold < 1:
        raise SystemExit(f"--cache {cache}: off, {FIRST_BLOCK} or {FIRST_BLOCK}=0.1, a number between 0 and 1")
    return threshold
