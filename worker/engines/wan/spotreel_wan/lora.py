"""Distilled weights: a LoRA, added to an expert's own when it is loaded for a task of the quality `fast`."""

from __future__ import annotations

import re
from pathlib import Path

import safetensors.torch
import torch
from diffusers import WanPipeline
from safetensors import SafetensorError

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


@torch.no_grad()
def merge(part: torch.nn.Module, path: Path) -> None:
    """W += B·A, for each layer that the file has; in float32, then rounded to the layer's own format. A key that
    finds no place is an error: half a LoRA gives noise."""
    try:
        tensors, changes = _read(path)
        for name, change in changes.items():
            _add(part.get_parameter(name), change)
        for name in sorted({key.partition(".lora_")[0] for key in tensors}):
            _merge_layer(part, name, tensors)
        if tensors:
            raise ValueError(f"{next(iter(tensors))} has no place")
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
        if isinstance(error, torch.AcceleratorError) or is_out_of_memory(error):
            raise  # The file is not to blame.
        raise broken("bad_lora", f"{path} is no LoRA of this model: {error}") from error


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Matrices and changes, by diffusers' names; alpha and rank are multiplied into the matrices."""
    found = {name: tensor.float() for name, tensor in safetensors.torch.load_file(path).items()}
    if not found:
        raise ValueError("it is empty")
    if bad := next((name for name, tensor in found.items() if not is_finite(tensor)), None):
        raise ValueError(f"{bad} holds NaN or infinite numbers")
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
            changes[place] = change
        elif change.any():
            raise ValueError(f"{name} has no place")
    converted = WanPipeline.lora_state_dict(found)
    return {name.removeprefix(PREFIX): tensor for name, tensor in converted.items()}, changes


def _merge_layer(part: torch.nn.Module, name: str, tensors: dict[str, torch.Tensor]) -> None:
    layer = part.get_submodule(name)
    if not isinstance(layer, torch.nn.Linear):
        raise ValueError(f"{name} is no linear layer")
    down, up = tensors.pop(f"{name}.lora_A.weight"), tensors.pop(f"{name}.lora_B.weight")
    _add(layer.weight, up.to(layer.weight.device) @ down.to(layer.weight.device))
    if (bias := tensors.pop(f"{name}.lora_B.bias", None)) is not None:
        _add(layer.bias, bias)


def _add(weight: torch.nn.Parameter, delta: torch.Tensor) -> None:
    if weight.shape != delta.shape:
        raise ValueError(f"{tuple(delta.shape)} for {tuple(weight.shape)}")
    weight.copy_(weight.float() + delta.to(weight.device))
