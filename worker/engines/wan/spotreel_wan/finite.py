"""NaN and infinite numbers: once there, they spread to the whole video, which is then black."""

from __future__ import annotations

import torch

from .contract import Refusal

CODE = "not_finite"


def is_finite(tensor: torch.Tensor) -> bool:
    # float8 has no test of its own.
    return bool(torch.isfinite(tensor.float() if tensor.element_size() == 1 else tensor).all())


def check_finite(tensor: torch.Tensor, what: str) -> None:
    """The weights were looked at when they were loaded, so what was computed from them may be right the next time."""
    if not is_finite(tensor):
        raise Refusal("retryable", CODE, f"NaN or infinite numbers in {what}: the next attempt begins before them")
