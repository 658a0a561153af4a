"""Distilled weights: a LoRA, added to an expert's own when it is loaded for a task of the quality `fast`."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from diffusers import WanPipeline
from safetensors import SafetensorError

from .failure import is_out_of_memory
from .finite import is_finite
from .log import log
from .pack import broken

# Changes of norms and modulation, which some files carry along. diffusers' converter drops them, but for one.
LEFT_OUT = (".diff", ".diff_m")
TAKEN = "head.head.diff"
# Which of the two transformers a file is for, it does not say.
PREFIX = "transformer."


@torch.no_grad()
def merge(part: torch.nn.Module, path: Path) -> None:
    """W += B·A, for each layer that the file has; in float32, then rounded to the layer's own format. A key that
    finds no place is an error: half a LoRA gives noise."""
    try:
        tensors = _read(path)
        for name in sorted({key.partition(".lora_")[0] for key in tensors}):
            _merge_layer(part, name, tensors)
        if tensors:
            raise ValueError(f"{next(iter(tensors))} has no place")
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
        if isinstance(error, torch.AcceleratorError) or is_out_of_memory(error):
            raise  # The file is not to blame.
        raise broken("bad_lora", f"{path} is no LoRA of this model: {error}") from error


def _read(path: Path) -> dict[str, torch.Tensor]:
    """By diffusers' names; alpha and rank are multiplied into the matrices."""
    found = {name: tensor.float() for name, tensor in safetensors.torch.load_file(path).items()}
    if not found:
        raise ValueError("it is empty")
    if bad := next((name for name, tensor in found.items() if not is_finite(tensor)), None):
        raise ValueError(f"{bad} holds NaN or infinite numbers")
    left = [name for name, tensor in found.items() if name.endswith(LEFT_OUT) and TAKEN not in name and tensor.any()]
    if left:
        log(f"{path}: {len(left)} tensors such as {left[0]} are no part of a LoRA and are left out")
    return {name.removeprefix(PREFIX): tensor for name, tensor in WanPipeline.lora_state_dict(found).items()}


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
