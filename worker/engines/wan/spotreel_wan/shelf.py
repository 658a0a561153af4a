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

from . import float8, lora, preview, tokenizer
from .ahead import read_ahead
from .device import Device
from .failure import is_out_of_memory
from .finite import CODE, is_finite
from .lora import Adapter
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
        self._arriving = {weight_path(name) for name in self.model.experts} & arriving
        self.vae = self._load("vae", weight_path("vae"))
        self._preview_colours: torch.Tensor | None = None
        # Each with the file that it was loaded from, and what was merged into it.
        self._parts: dict[str, tuple[str, tuple[Adapter, ...], torch.nn.Module]] = {}
        if profile.resident:
            for name in ("text_encoder", *self.model.experts):
                if weight_path(name) not in self._arriving:
                    self.get(name)

    def get(self, name: str, adapters: tuple[Adapter, ...] = (), fast: bool = False) -> torch.nn.Module:
        """The part, loaded if it is not there as it is wanted. `fast`: from the pack's distilled weights, where it has
        whole ones."""
        path = self._weights(name, fast)
        held = self._parts.get(name)
        if held is not None and held[:2] == (path, adapters):
            return held[2]
        held = None
        # Before gigabytes are read in vain.
        deltas = lora.read(self.blueprint.parts[name], adapters)
        self.clear(None if not self.profile.resident else name)
        part = self._load(name, path, deltas)
        self._parts[name] = path, adapters, part
        following = self._weights(self.model.experts[-1], fast)
        # What still arrives is in the kernel's memory anyway.
        if not self.profile.resident and name in self.model.experts[:-1] and following not in self._arriving:
            read_ahead(self.pack.dir / following)
        return part

    def slot(self, name: str, adapters: tuple[Adapter, ...] = (), fast: bool = False) -> Slot:
        """What a pipeline is given for a part."""
        return Slot(self, name, adapters, fast)

    def clear(self, name: str | None = None) -> None:
        """This part, or all but the VAE."""
        if name is None:
            self._parts.clear()
        else:
            self._parts.pop(name, None)
        gc.collect()
        self.device.give_back()

    def preview_colours(self) -> torch.Tensor:
        """The VAE's map from latents to colours, fitted when it is first asked for."""
        if self._preview_colours is None:
            self._preview_colours = preview.fit(self.vae)
        return self._preview_colours

    def forget_steps(self) -> None:
        """What caches have kept of the steps before."""
        for name, (_, _, part) in self._parts.items():
            if name in self.model.experts:
                self.tuning.forget(part)

    def _weights(self, name: str, fast: bool) -> str:
        """The file in the pack."""
        distilled = self.pack.fast.weights if fast and self.pack.fast is not None else {}
        return distilled.get(name, weight_path(name))

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

    def _load(self, name: str, path: str, deltas: lora.Deltas | None = None) -> torch.nn.Module:
        if path in self._arriving:
            self._await(name)
        is_expert = name in self.model.experts
        try:
            if is_expert and self.profile.storage == "float8":
                part = float8.load(self.pack.dir / path, self.blueprint, name, self.device, deltas or {})
            else:
                part = self._load_whole(name, path)
                lora.merge(part, deltas or {})
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            if is_out_of_memory(error):
                raise  # The pack is not to blame.
            raise broken("unloadable", f"{name} of {self.pack.model} cannot be loaded: {error}") from error
        # On the device it takes as long as it takes to read them.
        if bad := next((weight for weight, numbers in part.named_parameters() if not is_finite(numbers)), None):
            raise broken(CODE, f"{bad} in {path} of {self.pack.model} holds NaN or infinite numbers")
        if is_expert:
            self.tuning.apply(part)
        return part

    def _load_whole(self, name: str, path: str) -> torch.nn.Module:
        """In the pack's own format."""
        kind = {"text_encoder": UMT5EncoderModel, "vae": AutoencoderKLWan}.get(name, WanTransformer3DModel)
        # Straight to the accelerator: hosts of 24 GB cards have less memory than an expert takes.
        where = {"device_map": {"": self.device.torch}} if self.device.is_cuda else {}
        dtype = torch.float32 if name == "vae" else self.blueprint.dtype
        part = kind.from_pretrained((self.pack.dir / path).parent, dtype=dtype, **LOCAL, **where)
        return part.eval().requires_grad_(False).to(self.device.torch)

    def _await(self, name: str) -> None:
        path = self.pack.dir / weight_path(name)
        if self.wait is not None and not path.exists():
            self.wait(path)
        check_arrived(self.pack, self.blueprint, name)
        self._arriving.discard(weight_path(name))


class Slot(torch.nn.Module):
    """Stands for a part in a pipeline: knows its configuration, and has it loaded at its first use."""

    def __init__(self, shelf: Shelf, name: str, adapters: tuple[Adapter, ...], fast: bool) -> None:
        super().__init__()
        self._shelf = shelf
        self._name = name
        self._adapters = adapters
        self._fast = fast
        self.config = shelf.blueprint.parts[name].config
        self.dtype = shelf.blueprint.dtype
        self.device = shelf.device.torch

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._part()(*args, **kwargs)

    def cache_context(self, *args: Any, **kwargs: Any) -> Any:
        return self._part().cache_context(*args, **kwargs)

    def _part(self) -> Any:
        return self._shelf.get(self._name, self._adapters, self._fast)
