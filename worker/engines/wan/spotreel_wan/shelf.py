"""A model's parts, in memory as the profile has it."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors import SafetensorError
from transformers import UMT5EncoderModel
from transformers.utils import logging

from . import lora, tokenizer
from .ahead import read_ahead
from .device import Device
from .failure import is_out_of_memory
from .finite import CODE, is_finite
from .pack import Pack, broken
from .profile import Profile
from .tokenizer import FileTokenizer
from .tuning import Tuning
from .weights import Blueprint, check_arrived, weight_path

logging.disable_progress_bar()

# Nothing is looked up anywhere, and no code comes with weights.
LOCAL = {"local_files_only": True, "use_safetensors": True}


class Shelf:
    """Parts are loaded when they are first asked for; a profile that is not resident keeps one at a time."""

    def __init__(
        self,
        pack: Pack,
        blueprint: Blueprint,
        profile: Profile,
        device: Device,
        tuning: Tuning,
        arriving: frozenset[str] = frozenset(),
    ) -> None:
        self.pack = pack
        self.blueprint = blueprint
        self.model = blueprint.model
        self.profile = profile
        self.device = device
        self.tuning = tuning
        self.scheduler_config = self._scheduler_config()
        self.tokenizer = self._tokenizer()
        # How a render waits for a file, which a load never does.
        self.wait: Callable[[Path], None] | None = None
        self._arriving = {name for name in self.model.experts if weight_path(name) in arriving}
        self.vae = self._load("vae")
        # Each with whether it is distilled.
        self._parts: dict[str, tuple[bool, torch.nn.Module]] = {}
        if profile.resident:
            for name in ("text_encoder", *self.model.experts):
                if name not in self._arriving:
                    self.get(name)

    def get(self, name: str, *, distilled: bool = False) -> torch.nn.Module:
        held = self._parts.get(name)
        if held is not None and held[0] == distilled:
            return held[1]
        held = None
        # What was merged is never undone: rounding would not bring the old weights back.
        self.clear(None if not self.profile.resident else name)
        part = self._load(name, distilled)
        self._parts[name] = distilled, part
        following = self.model.experts[-1]
        # What still arrives is in the kernel's memory anyway.
        if not self.profile.resident and name in self.model.experts[:-1] and following not in self._arriving:
            read_ahead(self.pack.dir / weight_path(following))
        return part

    def slot(self, name: str, *, distilled: bool = False) -> Slot:
        """What a pipeline is given for a part."""
        return Slot(self, name, distilled)

    def clear(self, name: str | None = None) -> None:
        """This part, or all but the VAE."""
        if name is None:
            self._parts.clear()
        else:
            self._parts.pop(name, None)
        gc.collect()
        self.device.give_back()

    def forget_steps(self) -> None:
        """What caches have kept of the steps before."""
        for name, (_, part) in self._parts.items():
            if name in self.model.experts:
                self.tuning.forget(part)

    def _scheduler_config(self) -> dict[str, Any]:
        try:
            return json.loads((self.pack.dir / "scheduler" / "scheduler_config.json").read_text())
        except (OSError, ValueError) as error:
            raise broken("bad_config", f"the scheduler's configuration is unusable: {error}") from error

    def _tokenizer(self) -> FileTokenizer:
        try:
            return tokenizer.load(self.pack.dir)
        except Exception as error:  # Whatever the library makes of a broken file.
            raise broken("bad_tokenizer", f"the tokenizer cannot be loaded: {error}") from error

    def _load(self, name: str, distilled: bool = False) -> torch.nn.Module:
        if name in self._arriving:
            self._await(name)
        kind = {"text_encoder": UMT5EncoderModel, "vae": AutoencoderKLWan}.get(name, WanTransformer3DModel)
        is_expert = name in self.model.experts
        squeezed = is_expert and self.profile.storage == "float8"
        # Straight to the accelerator: hosts of 24 GB cards have less memory than an expert takes.
        where = {"device_map": {"": self.device.torch}} if self.device.is_cuda and not squeezed else {}
        dtype = torch.float32 if name == "vae" else self.blueprint.dtype
        try:
            part = kind.from_pretrained(self.pack.dir / name, dtype=dtype, **LOCAL, **where)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            if is_out_of_memory(error):
                raise  # The pack is not to blame.
            raise broken("unloadable", f"{name} of {self.pack.model} cannot be loaded: {error}") from error
        part.eval().requires_grad_(False)
        if distilled and self.pack.fast is not None:
            lora.merge(part, self.pack.dir / self.pack.fast.loras[name])
        if squeezed:
            part.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=self.blueprint.dtype)
        part = part.to(self.device.torch)
        # On the device it takes as long as it takes to read them.
        if bad := next((path for path, weight in part.named_parameters() if not is_finite(weight)), None):
            raise broken(CODE, f"{bad} of {name} of {self.pack.model} holds NaN or infinite numbers")
        if is_expert:
            self.tuning.apply(part)
        return part

    def _await(self, name: str) -> None:
        path = self.pack.dir / weight_path(name)
        if self.wait is not None and not path.exists():
            self.wait(path)
        check_arrived(self.pack, self.blueprint, name)
        self._arriving.discard(name)


class Slot(torch.nn.Module):
    """Stands for a part in a pipeline: knows its configuration, and has it loaded at its first use."""

    def __init__(self, shelf: Shelf, name: str, distilled: bool) -> None:
        super().__init__()
        self._shelf = shelf
        self._name = name
        self._distilled = distilled
        self.config = shelf.blueprint.parts[name].config
        self.dtype = shelf.blueprint.dtype
        self.device = shelf.device.torch

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._part()(*args, **kwargs)

    def cache_context(self, *args: Any, **kwargs: Any) -> Any:
        return self._part().cache_context(*args, **kwargs)

    def _part(self) -> Any:
        return self._shelf.get(self._name, distilled=self._distilled)
