"""What a pack's safetensors say they hold, held against what the configurations say they should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors import SafetensorError, safe_open
from transformers import UMT5Config, UMT5EncoderModel

from .models import Model
from .pack import Pack, broken

# Two names of one table; files hold either or both.
TIED = {"shared.weight", "encoder.embed_tokens.weight"}
FILES = {"text_encoder": "model.safetensors"}
OTHER_FILE = "diffusion_pytorch_model.safetensors"


def weight_file(pack: Pack, component: str) -> Path:
    return pack.dir / component / FILES.get(component, OTHER_FILE)


def empty_parts(pack: Pack, model: Model) -> dict[str, torch.nn.Module]:
    """Every part without its weights, if the pack is of this model and each file fits its part."""
    try:
        parts = {name: _empty(pack, name) for name in ("text_encoder", "vae", *model.experts)}
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise broken("bad_config", f"a configuration of {pack.model} is unusable: {error}") from error
    _check_architecture(parts, model)
    for name, part in parts.items():
        _check_shapes(weight_file(pack, name), part)
    return parts


def memory_bytes(part: torch.nn.Module, bytes_each: int) -> int:
    return sum(parameter.numel() for parameter in part.parameters()) * bytes_each


def _empty(pack: Pack, name: str) -> torch.nn.Module:
    config = json.loads((pack.dir / name / "config.json").read_text())
    with init_empty_weights():
        if name == "text_encoder":
            return UMT5EncoderModel(UMT5Config.from_dict(config))
        return (AutoencoderKLWan if name == "vae" else WanTransformer3DModel).from_config(config)


def _check_architecture(parts: dict[str, torch.nn.Module], model: Model) -> None:
    vae: Any = parts["vae"].config
    wanted: list[tuple[str, Any, Any]] = [
        ("vae.z_dim", vae.z_dim, model.latent_channels),
        ("vae.scale_factor_spatial", vae.scale_factor_spatial, model.pixels_per_latent),
    ]
    for name in model.experts:
        config: Any = parts[name].config
        wanted += [
            (f"{name}.in_channels", config.in_channels, model.in_channels),
            (f"{name}.out_channels", config.out_channels, model.latent_channels),
            (f"{name}.patch_size", tuple(config.patch_size), (1, 2, 2)),
            (f"{name}.text_dim", config.text_dim, parts["text_encoder"].config.d_model),
        ]
    for what, found, right in wanted:
        if found != right:
            raise broken("wrong_model", f"{what} is {found}, {model.name} has {right}")


def _check_shapes(path: Path, part: torch.nn.Module) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in part.state_dict().items()}
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (SafetensorError, OSError) as error:
        raise broken("not_safetensors", f"{path} is no safetensors file: {error}") from error
    tied = TIED if TIED & found.keys() else set()
    if missing := sorted(expected.keys() - found.keys() - tied):
        raise broken("wrong_shapes", f"{path} lacks {len(missing)} tensors, {missing[0]} among them")
    for name, shape in expected.items():
        if found.get(name, shape) != shape:
            raise broken("wrong_shapes", f"{path}: {name} is {found[name]}, not {shape}")
