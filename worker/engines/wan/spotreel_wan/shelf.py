"""A model's parts, in memory as the profile has it."""

from __future__ import annotations

import gc
import json
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors import SafetensorError
from transformers import AutoTokenizer, UMT5EncoderModel
from transformers.utils import logging

from . import weights
from .device import Device
from .models import Model
from .pack import Pack, broken
from .profile import Profile

logging.disable_progress_bar()

# Nothing is looked up anywhere, and no code comes with weights.
LOCAL = {"local_files_only": True, "use_safetensors": True}


class Shelf:
    """Parts are loaded when they are first asked for; a profile that is not resident keeps one at a time."""

    def __init__(self, pack: Pack, model: Model, profile: Profile, device: Device) -> None:
        self.pack = pack
        self.model = model
        self.profile = profile
        self.device = device
        self.dtype = getattr(torch, pack.compute)
        empty = weights.empty_parts(pack, model)
        self.configs: dict[str, Any] = {name: part.config for name, part in empty.items()}
        self.bytes = {name: weights.memory_bytes(part, self._bytes_each(name)) for name, part in empty.items()}
        self.scheduler_config = self._scheduler_config()
        self.tokenizer = self._tokenizer()
        self.vae = self._load("vae")
        self._parts: dict[str, torch.nn.Module] = {}
        if profile.resident:
            for name in ("text_encoder", *model.experts):
                self.get(name)

    def get(self, name: str) -> torch.nn.Module:
        if name not in self._parts:
            if not self.profile.resident:
                self.clear()
            self._parts[name] = self._load(name)
        return self._parts[name]

    def slot(self, name: str) -> Slot:
        """What a pipeline is given for a part."""
        return Slot(self, name)

    def clear(self) -> None:
        self._parts.clear()
        gc.collect()
        self.device.give_back()

    def _bytes_each(self, name: str) -> int:
        if name == "vae":
            return 4
        return 1 if name in self.model.experts and self.profile.storage == "float8" else self.dtype.itemsize

    def _scheduler_config(self) -> dict[str, Any]:
        try:
            return json.loads((self.pack.dir / "scheduler" / "scheduler_config.json").read_text())
        except (OSError, ValueError) as error:
            raise broken("bad_config", f"the scheduler's configuration is unusable: {error}") from error

    def _tokenizer(self) -> Any:
        try:
            return AutoTokenizer.from_pretrained(self.pack.dir / "tokenizer", local_files_only=True)
        except Exception as error:  # Whatever the library makes of a broken file.
            raise broken("bad_tokenizer", f"the tokenizer cannot be loaded: {error}") from error

    def _load(self, name: str) -> torch.nn.Module:
        kind = {"text_encoder": UMT5EncoderModel, "vae": AutoencoderKLWan}.get(name, WanTransformer3DModel)
        squeezed = name in self.model.experts and self.profile.storage == "float8"
        # Straight to the accelerator: hosts of 24 GB cards have less memory than an expert takes.
        where = {"device_map": {"": self.device.torch}} if self.device.is_cuda and not squeezed else {}
        dtype = torch.float32 if name == "vae" else self.dtype
        try:
            part = kind.from_pretrained(self.pack.dir / name, dtype=dtype, **LOCAL, **where)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise broken("unloadable", f"{name} of {self.pack.model} cannot be loaded: {error}") from error
        part.eval().requires_grad_(False)
        if squeezed:
            part.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=self.dtype)
        return part.to(self.device.torch)


class Slot(torch.nn.Module):
    """Stands for a part in a pipeline: knows its configuration, and has it loaded at its first use."""

    def __init__(self, shelf: Shelf, name: str) -> None:
        super().__init__()
        self._shelf = shelf
        self._name = name
        self.config = shelf.configs[name]
        self.dtype = shelf.dtype
        self.device = shelf.device.torch

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._shelf.get(self._name)(*args, **kwargs)

    def cache_context(self, *args: Any, **kwargs: Any) -> Any:
        return self._shelf.get(self._name).cache_context(*args, **kwargs)
