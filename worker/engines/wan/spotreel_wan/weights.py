"""What a pack's safetensors say they hold, held against what the configurations say they should."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors import SafetensorError, safe_open
from transformers import UMT5Config, UMT5EncoderModel

from .models import Model
from .pack import Pack, broken, config_beside, measure

# Two names of one table; files hold either or both.
TIED_TO = "encoder.embed_tokens.weight"
TIED = {"shared.weight", TIED_TO}
FILES = {"text_encoder": "model.safetensors"}
OTHER_FILE = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Blueprint:
    """A model's parts without their weights: what a pack's configurations make of it."""

    model: Model
    parts: dict[str, torch.nn.Module]
    # The number format of text encoder and transformers.
    dtype: torch.dtype

    @property
    def width(self) -> int:
        """Of the experts: what each token is made of."""
        config: Any = self.parts[self.model.experts[0]].config
        return config.num_attention_heads * config.attention_head_dim

    def bytes(self, name: str, *, float8: bool = False) -> int:
        """As the part lies in memory."""
        part: Any = self.parts[name]
        if name not in self.model.experts:
            each = 4 if name == "vae" else self.dtype.itemsize
            return each * sum(parameter.numel() for path, parameter in part.named_parameters() if path != TIED_TO)
        total = 0
        for path, parameter in part.named_parameters():
            each = 4 if is_float32(part, path) else self.dtype.itemsize
            if float8 and path.endswith(".weight") and is_cast(part, path.rpartition(".")[0]):
                each = 1
            total += parameter.numel() * each
        return total

    @property
    def largest_tensor(self) -> int:
        """In bytes."""
        return max(
            parameter.numel() * (4 if name == "vae" else self.dtype.itemsize)
            for name, part in self.parts.items()
            for parameter in part.parameters()
        )


def is_float32(part: Any, path: str) -> bool:
    """Some of an expert is kept in float32."""
    return bool(set(part._keep_in_fp32_modules) & set(path.split(".")))


def is_cast(part: Any, layer: str) -> bool:
    """Whether the layer's weights may be kept in float8; diffusers knows what suffers too much."""
    uncast = part._skip_layerwise_casting_patterns
    return isinstance(part.get_submodule(layer), torch.nn.Linear) and not any(word in layer for word in uncast)


def weight_path(component: str) -> str:
    return f"{component}/{FILES.get(component, OTHER_FILE)}"


def blueprint(pack: Pack, model: Model, arriving: frozenset[str] = frozenset()) -> Blueprint:
    """If the pack is of this model, and each file that is here fits its part."""
    try:
        parts = {name: empty_part(name, _config(pack, name)) for name in ("text_encoder", "vae", *model.experts)}
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise broken("bad_config", f"a configuration of {pack.model} is unusable: {error}") from error
    _check_architecture(parts, model)
    for name, part in parts.items():
        if weight_path(name) not in arriving:
            _check_shapes(pack.dir / weight_path(name), part)
    for name, path in ({} if pack.fast is None else pack.fast.weights).items():
        # They are loaded by the plan of the expert in whose place they stand.
        if pack.file(config_beside(path)).sha256 != pack.file(f"{name}/config.json").sha256:
            raise broken("wrong_model", f"{path} has another configuration than {name} of {pack.model}")
        _check_shapes(pack.dir / path, parts[name])
    return Blueprint(model, parts, getattr(torch, pack.compute))


def check_arrived(pack: Pack, blueprint: Blueprint, name: str) -> None:
    """What `blueprint` could not look at yet."""
    measure(pack, pack.file(weight_path(name)))
    _check_shapes(pack.dir / weight_path(name), blueprint.parts[name])


def _config(pack: Pack, name: str) -> dict[str, Any]:
    return json.loads((pack.dir / name / "config.json").read_text())


def empty_part(name: str, config: dict[str, Any]) -> torch.nn.Module:
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
