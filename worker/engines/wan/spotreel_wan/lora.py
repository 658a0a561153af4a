"""LoRAs: changes that are added to an expert's own weights while it is loaded; the distilled ones of a pack, and those
that a task names. They are never taken out again, since rounding would not bring the old weights back: an expert that
is wanted with others is loaded anew."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers import WanPipeline
from safetensors import SafetensorError

from .contract import Refusal
from .failure import is_out_of_memory
from .finite import is_finite
from .pack import broken

# Whole changes of what is no matrix, which some files carry along; diffusers' converter drops them. The authors' names,
# and diffusers'.
CHANGES = (
    (re.compile(r"blocks\.(\d+)\.self_attn\.(norm_[qk])\.diff"), r"blocks.\1.attn1.\2.weight"),
    (re.compile(r"blocks\.(\d+)\.cross_attn\.(norm_[qk])\.diff"), r"blocks.\1.attn2.\2.weight"),
    (re.compile(r"blocks\.(\d+)\.norm3\.diff"), r"blocks.\1.norm2.weight"),
    (re.compile(r"blocks\.(\d+)\.norm3\.diff_b"), r"blocks.\1.norm2.bias"),
    (re.compile(r"blocks\.(\d+)\.diff_m"), r"blocks.\1.scale_shift_table"),
    (re.compile(r"head\.diff_m"), "scale_shift_table"),
)
# What the converter has no place for, or drops in silence.
CHANGE = (".diff", ".diff_b", ".diff_m")
CONVERTED = re.compile(r"head\.head\.diff(_b)?|blocks\.\d+\.((self|cross)_attn\.[qkvo]|ffn\.[02])\.diff_b")
# The authors' names of layers; some files have them without what the others begin with.
AUTHORS = re.compile(r"blocks\.\d+\.(self_attn|cross_attn|ffn\.\d|norm3|diff_m)")
AUTHORS_PREFIX = "diffusion_model."
# Which of the two transformers a file is for, it does not say.
PREFIX = "transformer."


@dataclass(frozen=True)
class Adapter:
    """A LoRA file as it is merged: two of them make the same weights when these are equal."""

    sha256: str
    strength: float
    path: Path = field(compare=False)
    # The task's name for it; None: it is the pack's own.
    name: str | None = field(default=None, compare=False)

    def broken(self, why: Exception) -> Refusal:
        if self.name is None:
            return broken("bad_lora", f"{self.path} is no LoRA of this model: {why}")
        return Refusal("invalid", "lora", f"the LoRA {self.name!r} is none of this model: {why}")


@dataclass(frozen=True)
class Factor:
    """A tensor in its file's own format, whose pages are the file's, and a number that it is multiplied by. diffusers'
    converter takes it for a tensor."""

    tensor: torch.Tensor
    scale: float = 1.0

    @property
    def shape(self) -> torch.Size:
        return self.tensor.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def item(self) -> float:
        return self.tensor.float().item()

    def __mul__(self, scale: float) -> Factor:
        return Factor(self.tensor, self.scale * scale)

    def wide(self, device: torch.device) -> torch.Tensor:
        """In float32. Only here memory is taken, for the time of one addition."""
        tensor = self.tensor.to(device).float()
        return tensor if self.scale == 1.0 else tensor * self.scale


@dataclass(frozen=True)
class Delta:
    """What is added to one weight: a product of two matrices, or the whole of it."""

    factors: tuple[Factor, ...]
    strength: float

    @property
    def shape(self) -> tuple[int, ...]:
        first, last = self.factors[0].shape, self.factors[-1].shape
        return (first[0], last[1]) if len(self.factors) == 2 else first

    def added_to(self, weight: torch.Tensor) -> torch.Tensor:
        """In float32, then rounded to the weight's own format."""
        factors = [factor.wide(weight.device) for factor in self.factors]
        change = factors[0] @ factors[1] if len(factors) == 2 else factors[0]
        return (weight.float() + self.strength * change).to(weight.dtype)


# By the name of the weight, in the order in which they are added.
Deltas = dict[str, list[Delta]]


@torch.no_grad()
def merge(part: torch.nn.Module, deltas: Deltas) -> None:
    for name, changes in deltas.items():
        weight = part.get_parameter(name)
        for delta in changes:
            weight.copy_(delta.added_to(weight))


def read(part: torch.nn.Module, adapters: tuple[Adapter, ...]) -> Deltas:
    """The changes of all of them, held against the part, which needs no weights for it. A key that finds no place is an
    error: half a LoRA gives noise."""
    deltas: Deltas = {}
    for adapter in adapters:
        try:
            tensors, changes = _read(adapter.path)
            for name, change in changes.items():
                _note(deltas, part, name, Delta((change,), adapter.strength))
            for name in sorted({key.partition(".lora_")[0] for key in tensors}):
                _note_layer(deltas, part, name, tensors, adapter.strength)
            if tensors:
                raise ValueError(f"{next(iter(tensors))} has no place")
        except (SafetensorError, OSError, ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
            if isinstance(error, torch.AcceleratorError) or is_out_of_memory(error):
                raise  # The file is not to blame.
            raise adapter.broken(error) from error
    return deltas


def _read(path: Path) -> tuple[dict[str, Factor], dict[str, Factor]]:
    """Matrices and changes, by diffusers' names; alpha and rank are multiplied into the matrices."""
    found = safetensors.torch.load_file(path)
    if not found:
        raise ValueError("it is empty")
    for name, tensor in found.items():
        if not is_finite(tensor.float()):
            raise ValueError(f"{name} holds NaN or infinite numbers")
        # diffusers' converter doubles the scale until it is near 1, which 0 and less never come to.
        if name.endswith(".alpha") and not (tensor.float() > 0).all():
            raise ValueError(f"{name} is not above 0")
    if any(AUTHORS.match(name) for name in found):
        found = {AUTHORS_PREFIX + name: tensor for name, tensor in found.items()}
    changes = {}
    for name in [name for name in found if name.endswith(CHANGE)]:
        bare = name.removeprefix(AUTHORS_PREFIX)
        if CONVERTED.fullmatch(bare):
            continue
        change = found.pop(name)
        place = next((pattern.sub(ours, bare) for pattern, ours in CHANGES if pattern.fullmatch(bare)), None)
        if place is not None:
            changes[place] = Factor(change)
        elif change.float().any():
            raise ValueError(f"{name} has no place")
    given: dict[str, Any] = {name: Factor(tensor) for name, tensor in found.items()}
    matrices = {}
    for name, converted in WanPipeline.lora_state_dict(given).items():
        # It makes a tensor of its own beside the head's whole change.
        matrices[name.removeprefix(PREFIX)] = converted if isinstance(converted, Factor) else Factor(converted)
    return matrices, changes


def _note_layer(deltas: Deltas, part: torch.nn.Module, name: str, tensors: dict[str, Factor], strength: float) -> None:
    if not isinstance(part.get_submodule(name), torch.nn.Linear):
        raise ValueError(f"{name} is no linear layer")
    down, up = tensors.pop(f"{name}.lora_A.weight"), tensors.pop(f"{name}.lora_B.weight")
    if len(up.shape) != 2 or len(down.shape) != 2 or up.shape[1] != down.shape[0]:
        raise ValueError(f"{name}: {tuple(up.shape)} times {tuple(down.shape)} is no matrix")
    _note(deltas, part, f"{name}.weight", Delta((up, down), strength))
    if (bias := tensors.pop(f"{name}.lora_B.bias", None)) is not None:
        _note(deltas, part, f"{name}.bias", Delta((bias,), strength))


def _note(deltas: Deltas, part: torch.nn.Module, name: str, delta: Delta) -> None:
    weight = part.get_parameter(name)
    if weight.shape != delta.shape:
        raise ValueError(f"{name}: {tuple(delta.shape)} for {tuple(weight.shape)}")
    deltas.setdefault(name, []).append(delta)
