"""The published architectures with random weights: they take the time and the memory of trained ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from spotreel_wan import float8
from spotreel_wan.device import Device
from spotreel_wan.lora import Deltas
from spotreel_wan.models import Model
from spotreel_wan.pack import Pack
from spotreel_wan.profile import Profile
from spotreel_wan.shelf import Shelf
from spotreel_wan.tuning import Tuning
from spotreel_wan.weights import Blueprint, empty_part, is_cast

# Its tokenizers will do, and its configurations where time says nothing.
TINY = Path(__file__).resolve().parent / "packs" / "tiny"


class RandomShelf(Shelf):
    """The engine's own shelf, but for where weights come from."""

    def __init__(self, model: Model, profile: Profile, device: Device, speed: Tuning, tiny: bool) -> None:
        pack = Pack(TINY / model.name, model.name, "bfloat16", {"weights": "random"}, "none", (), (), "random")
        self._configs = {name: _config(model, name, tiny) for name in ("text_encoder", "vae", *model.experts)}
        parts = {name: empty_part(name, config) for name, config in self._configs.items()}
        super().__init__(pack, Blueprint(model, parts, torch.bfloat16), profile, device, speed)

    def _load(self, name: str, _path: str, deltas: Deltas | None = None) -> Any:
        # Seeded by its name, so that another process makes the same.
        torch.manual_seed(sum(name.encode()))
        previous = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32 if name == "vae" else self.blueprint.dtype)
        try:
            with self.device.torch:
                part = _make(name, self._configs[name])
        finally:
            torch.set_default_dtype(previous)
        for path, parameter in part.named_parameters():
            if any(word in path for word in getattr(part, "_keep_in_fp32_modules", None) or ()):
                parameter.data = parameter.data.float()
        part.eval().requires_grad_(False)
        if name in self.model.experts and self.profile.storage == "float8":
            for path in [path for path, _ in part.named_modules() if is_cast(part, path)]:
                layer = part.get_submodule(path)
                part.set_submodule(path, float8.Linear(layer.weight.data, layer.bias.data))
        if name in self.model.experts:
            self.tuning.apply(part)
        return part


def _config(model: Model, name: str, tiny: bool) -> dict[str, Any]:
    return json.loads((TINY / model.name / name / "config.json").read_text()) if tiny else real_config(model, name)


def _make(name: str, config: dict[str, Any]) -> Any:
    if name == "text_encoder":
        return UMT5EncoderModel(UMT5Config.from_dict(config))
    return (AutoencoderKLWan if name == "vae" else WanTransformer3DModel).from_config(config)


def real_config(model: Model, name: str) -> dict[str, Any]:
    """As diffusers' conversion of the published weights has them."""
    small = model.name == "ti2v-5B"
    if name == "text_encoder":
        sizes = {"vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
        return sizes | {"dropout_rate": 0.0}
    if name == "vae" and small:
        latents = {"z_dim": 48, "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48}
        sizes = {"base_dim": 160, "decoder_base_dim": 256, "in_channels": 12, "out_channels": 12}
        return latents | sizes | {"is_residual": True, "patch_size": 2, "scale_factor_spatial": 16}
    if name == "vae":
        return {"base_dim": 96, "z_dim": 16}
    return {
        "num_attention_heads": 24 if small else 40,
        "attention_head_dim": 128,
        "in_channels": model.in_channels,
        "out_channels": model.latent_channels,
        "text_dim": 4096,
        "freq_dim": 256,
        "ffn_dim": 14336 if small else 13824,
        "num_layers": 30 if small else 40,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 1024,
    }
