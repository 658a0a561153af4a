"""How a model is laid out in memory, and which renders fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .contract import Refusal, Task
from .device import Device
from .models import Model
from .pack import Pack

Storage = Literal["pack", "float8"]


@dataclass(frozen=True)
class Profile:
    name: str
    # All parts at once; else only one of text encoder and experts, which is loaded when it is wanted.
    resident: bool
    # How the experts' weights are kept; they count in the pack's format in any case.
    storage: Storage
    # Decode in tiles from the beginning, not only after memory ran out.
    tiles: bool


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("resident", True, "pack", False),
        Profile("swap", False, "pack", False),
        Profile("swap-float8", False, "float8", True),
    )
}

# From the official peaks less one expert: 13 GB at 32,760 tokens, 31 GB at 75,600.
ACTIVATION_BYTES_PER_TOKEN = 420_000
# CUDA's own context, cuBLAS' workspaces, the VAE's weights.
FIXED_BYTES = 2 << 30


def choose(pack: Pack, wanted: str | None, device: Device) -> Profile:
    """The wanted one, or the first of the pack's own that the device has the memory for."""
    if wanted is not None:
        if wanted not in PROFILES:
            raise Refusal("model", "unknown_profile", f"there is no profile {wanted!r}")
        return PROFILES[wanted]
    known = [(name, least) for name, least in pack.profiles if name in PROFILES]
    if not known:
        raise Refusal("model", "no_profile", f"the pack of {pack.model} names no profile that is known here")
    for name, least in known:
        if device.memory is None or device.memory >= least:
            return PROFILES[name]
    raise too_small(f"{pack.model} cannot be loaded", min(least for _, least in known), device)


def needed_bytes(profile: Profile, model: Model, weights: dict[str, int], tokens: int) -> int:
    """`weights`: bytes of each part as it lies in memory."""
    parts = [weights["text_encoder"], *(weights[expert] for expert in model.experts)]
    return (sum(parts) if profile.resident else max(parts)) + tokens * ACTIVATION_BYTES_PER_TOKEN + FIXED_BYTES


def check_fit(profile: Profile, model: Model, weights: dict[str, int], task: Task, device: Device) -> None:
    """Refuses at once what would run out of memory after minutes."""
    if device.memory is None:
        return
    needed = needed_bytes(profile, model, weights, model.tokens(task.width, task.height, task.frames))
    if needed > device.memory:
        raise too_small(f"{task.width}x{task.height}, {task.frames} frames do not fit", needed, device)


def too_small(what: str, needed: int, device: Device) -> Refusal:
    has = device.memory or 0
    message = f"{what} on {device.name}: {needed >> 30} GiB are needed, it has {has >> 30}"
    return Refusal("oom", "does_not_fit", message, context={"needed_bytes": needed, "has_bytes": has})
