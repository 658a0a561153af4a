"""How a model is laid out in memory, and which renders fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .contract import Refusal, Task
from .device import Device
from .pack import Pack
from .weights import Blueprint

Storage = Literal["pack", "float8"]
# The words of a checkpoint's class for it: another way to round is another class.
STORED: dict[Storage, str] = {"pack": "pack", "float8": "float8 by rows"}


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

# diffusers' blocks, for each token: fits the official peaks less weights, at 5120 wide (A14B) as at 3072 (5B).
ACTIVATION_BYTES = 82
# ti2v-5B gives each token a time of its own: six numbers for each of the token's, in the pack's format and in float32.
TIMES = 6
# CUDA's own context and cuBLAS' workspaces.
FIXED_BYTES = 1 << 29
# Of the host: Python, torch and CUDA with what they pin, the last step's state and a checkpoint of it, ffmpeg. Weights
# and LoRAs are not in it: their files' pages are the kernel's, which takes them back.
HOST_BYTES = 4 << 30
# Of the largest tensor: as it comes from the file, and as it is converted.
COPIES = 2


def choose(pack: Pack, blueprint: Blueprint, wanted: str | None, device: Device) -> Profile:
    """The wanted one. Else, in the pack's order or the engine's: the first with which every render of the model fits
    the device, or the first with which the smallest on offer does."""
    if wanted is not None:
        if wanted not in PROFILES:
            raise Refusal("model", "unknown_profile", f"there is no profile {wanted!r}")
        check_host(blueprint, device)
        return PROFILES[wanted]
    check_host(blueprint, device)
    known = [PROFILES[name] for name in pack.profiles or PROFILES if name in PROFILES]
    if not known:
        raise Refusal("model", "no_profile", f"the pack of {pack.model} names no profile that is known here")
    model, least = blueprint.model, 0
    for tokens in (model.most_tokens, model.least_tokens):
        needs = {profile.name: needed_bytes(profile, blueprint, tokens) for profile in known}
        for profile in known:
            if device.memory is None or needs[profile.name] <= device.memory:
                return profile
        least = min(needs.values())
    raise too_small(f"{pack.model} cannot be loaded", least, device)


def needed_bytes(profile: Profile, blueprint: Blueprint, tokens: int) -> int:
    model = blueprint.model
    each = ACTIVATION_BYTES * blueprint.width
    if model.times_per_token:
        each += TIMES * blueprint.width * (blueprint.dtype.itemsize + 4)
    encoder = blueprint.bytes("text_encoder")
    experts = [blueprint.bytes(expert, float8=profile.storage == "float8") for expert in model.experts]
    denoising = (sum(experts) if profile.resident else max(experts)) + tokens * each
    most = encoder + denoising if profile.resident else max(encoder, denoising)
    return most + blueprint.bytes("vae") + FIXED_BYTES


def host_bytes(blueprint: Blueprint) -> int:
    """Of host memory, with any profile: each brings weights to the device tensor by tensor."""
    return HOST_BYTES + COPIES * blueprint.largest_tensor


def check_host(blueprint: Blueprint, device: Device) -> None:
    """A kernel that runs out of memory ends the engine without a word."""
    needed = host_bytes(blueprint)
    if device.host_memory is not None and needed > device.host_memory:
        has = device.host_memory >> 30
        message = f"{blueprint.model.name} needs {needed >> 30} GiB of this machine's own memory, there are {has}"
        context = {"needed_host_bytes": needed, "has_host_bytes": device.host_memory}
        raise Refusal("model", "host_memory", message, context=context)


def check_fit(profile: Profile, blueprint: Blueprint, task: Task, device: Device) -> None:
    """Refuses at once what would run out of memory after minutes."""
    if device.memory is None:
        return
    tokens = blueprint.model.tokens(task.width, task.height, task.frames)
    needed = needed_bytes(profile, blueprint, tokens)
    if needed > device.memory:
        raise too_small(f"{task.width}x{task.height}, {task.frames} frames do not fit", needed, device)


def too_small(what: str, needed: int, device: Device) -> Refusal:
    has = device.memory or 0
    message = f"{what} on {device.name}: {needed >> 30} GiB are needed, it has {has >> 30}"
    return Refusal("oom", "does_not_fit", message, context={"needed_bytes": needed, "has_bytes": has})
