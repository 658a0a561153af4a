"""`wanckpt/1`: one safetensors file that holds all a render needs to go on, and says whose it is.

    latents, model_outputs.0, model_outputs.1, last_sample    float32, shaped as the latents
    embeds.prompt, embeds.negative                            the text, encoded
    condition                                                 the first frame, encoded; of models that take one

Euler has no history, and for decoding the latents are enough. The metadata has one key, `wanckpt/1`, whose value is
JSON: task_hash, model, pack, seed, solver, next_step, total, timesteps, lower_order_nums, this_order, phase, class.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError

from .contract import HashedFile, Refusal
from .device import EquivalenceClass
from .finite import check_finite, is_finite
from .models import TEXT_TOKENS
from .recipe import Recipe
from .scheduler import ORDER, History

FORMAT = "wanckpt/1"
# Ten times the largest there is: 92 MB for ti2v-5B.
MAX_BYTES = 1 << 30
Phase = Literal["denoise", "decode"]


@dataclass(frozen=True)
class Snapshot:
    """The state between two steps, on the host."""

    history: History
    phase: Phase
    latents: torch.Tensor
    prompt_embeds: torch.Tensor | None
    negative_embeds: torch.Tensor | None
    condition: torch.Tensor | None = None
    # What the last step took for the finished latents. Shown, and in no file.
    clean: torch.Tensor | None = None

    @property
    def next_step(self) -> int:
        return self.history.next_step

    def tensors(self) -> dict[str, torch.Tensor]:
        """What goes into the file."""
        if self.phase == "decode":
            # Decoding needs no more, and the rest is nine tenths of the file.
            return {"latents": self.latents}
        outputs = {f"model_outputs.{i}": tensor for i, tensor in enumerate(self.history.model_outputs)}
        found = {
            "latents": self.latents,
            **outputs,
            "last_sample": self.history.last_sample,
            "embeds.prompt": self.prompt_embeds,
            "embeds.negative": self.negative_embeds,
            "condition": self.condition,
        }
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def check_finite(self) -> None:
        """A checkpoint with NaN would be gone on with for as long as the task is tried."""
        for name, tensor in self.tensors().items():
            check_finite(tensor, f"{name} after step {self.next_step}")


@dataclass(frozen=True)
class Maker:
    """Writes checkpoints of one render."""

    recipe: Recipe
    timesteps: list[float]
    equivalence: EquivalenceClass

    def encode(self, snapshot: Snapshot) -> bytes:
        history = snapshot.history
        state = {
            "task_hash": self.recipe.task_hash,
            "model": self.recipe.model.name,
            "pack": self.recipe.pack_sha256,
            "seed": self.recipe.task.seed,
            "solver": self.recipe.solver,
            "next_step": history.next_step,
            "total": self.recipe.task.steps,
            "timesteps": self.timesteps,
            "lower_order_nums": history.lower_order_nums,
            "this_order": history.this_order,
            "phase": snapshot.phase,
            "class": self.equivalence,
        }
        whole = {name: tensor.contiguous() for name, tensor in snapshot.tensors().items()}
        return safetensors.torch.save(whole, {FORMAT: json.dumps(state)})

    def read(self, resume: HashedFile) -> tuple[Snapshot, Literal["exact", "approximate"]]:
        """Refuses what is not whole, or not of this very render."""
        data = _verified(resume)
        state = _state(data)
        for key, ours in (
            ("task_hash", self.recipe.task_hash),
            ("model", self.recipe.model.name),
            ("pack", self.recipe.pack_sha256),
            ("solver", self.recipe.solver),
            ("total", self.recipe.task.steps),
            ("timesteps", self.timesteps),
        ):
            if state.get(key) != ours:
                raise refuse("other_task", f"the checkpoint is of another render: its {key} differs")
        try:
            tensors = safetensors.torch.load(data)
            snapshot = self._snapshot(state, tensors)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise refuse("corrupt", f"the checkpoint is damaged: {error!r}") from error
        return snapshot, "exact" if state.get("class") == self.equivalence else "approximate"

    def _snapshot(self, state: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Snapshot:
        task, order = self.recipe.task, ORDER[self.recipe.solver]
        shape = self.recipe.model.latent_shape(task.width, task.height, task.frames)
        for name, tensor in tensors.items():
            if not name.startswith("embeds.") and not self._fits(name, tensor, shape):
                raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}")
            if not is_finite(tensor):
                raise refuse("not_finite", f"{name} of the checkpoint holds NaN or infinite numbers")
        next_step, phase = state["next_step"], state["phase"]
        if not isinstance(next_step, int) or not 0 <= next_step <= task.steps:
            raise ValueError(f"next_step is {next_step!r}")
        if phase not in ("denoise", "decode") or (phase == "decode") != (next_step == task.steps):
            raise ValueError(f"{phase!r} at step {next_step}")
        decode = phase == "decode"
        history = History(
            next_step=next_step,
            model_outputs=tuple(tensors.get(f"model_outputs.{i}") for i in range(order)),
            last_sample=tensors.get("last_sample"),
            lower_order_nums=int(state["lower_order_nums"]),
            this_order=int(state["this_order"]),
        )
        known = sum(output is not None for output in history.model_outputs)
        if not decode and (known, history.last_sample is not None) != (min(next_step, order), order * next_step > 0):
            raise ValueError("the solver's history is incomplete")
        return Snapshot(
            history=history,
            phase=phase,
            latents=tensors["latents"],
            prompt_embeds=None if decode else _embeds(tensors["embeds.prompt"]),
            negative_embeds=None if decode else _embeds(tensors["embeds.negative"]),
            condition=tensors.get("condition"),
        )

    def _fits(self, name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> bool:
        if name == "condition":
            _, channels, times, *area = shape
            # One frame of latents, or with a mask for every frame all that the transformer takes beside them.
            model = self.recipe.model
            more = (channels, 1) if model.times_per_token else (model.in_channels - channels, times)
            shape = (1, *more, *area)
        return tensor.shape == shape and tensor.dtype == torch.float32


def write(path: Path, data: bytes) -> None:
    """The name never shows half of it, even after a crash."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def refuse(code: str, message: str) -> Refusal:
    return Refusal("checkpoint", code, message)


def _verified(resume: HashedFile) -> bytes:
    try:
        if resume.path.stat().st_size > MAX_BYTES:
            raise refuse("corrupt", "the file is larger than any checkpoint")
        data = resume.path.read_bytes()
    except OSError as error:
        raise refuse("unreadable", f"cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != resume.sha256:
        raise refuse("sha256_mismatch", "the file is not the one that was asked for")
    return data


def _state(data: bytes) -> dict[str, Any]:
    try:
        return metadata(data, FORMAT)
    except (ValueError, KeyError, TypeError) as error:
        raise refuse("corrupt", f"not a {FORMAT} file: {error!r}") from error


def metadata(data: bytes, key: str) -> dict[str, Any]:
    """What safetensors' own loader for bytes does not give."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    found = json.loads(header["__metadata__"][key])
    if not isinstance(found, dict):
        raise TypeError(f"{key} is no object")
    return found


def _embeds(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.ndim != 3 or tensor.shape[:2] != (1, TEXT_TOKENS):
        raise ValueError(f"an embedding is {tuple(tensor.shape)}")
    return tensor
