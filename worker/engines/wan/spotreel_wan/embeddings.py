"""`wanembeds/1`: encoded text as a file, so that a task with the same text need not load the text encoder.

    embeds.prompt, embeds.negative    (1, 512, width), in the pack's format

The metadata has one key, `wanembeds/1`, whose value is JSON: what encoded which text. Only the very
same is used.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from .checkpoint import metadata, write
from .contract import HashedFile
from .device import Device, machine_word
from .finite import is_finite
from .log import log
from .models import TEXT_TOKENS
from .pack import Pack
from .recipe import Recipe

FORMAT = "wanembeds/1"
# Ten times what umT5's width of 4096 takes in float32.
MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class Text:
    """Encoded, on the host."""

    prompt: torch.Tensor
    negative: torch.Tensor


@dataclass(frozen=True)
class Encoding:
    """Whose encoded text fits a render."""

    origin: dict[str, Any]
    width: int
    dtype: torch.dtype

    def encode(self, text: Text) -> bytes:
        tensors = {"embeds.prompt": text.prompt.contiguous(), "embeds.negative": text.negative.contiguous()}
        return safetensors.torch.save(tensors, {FORMAT: json.dumps(self.origin, sort_keys=True)})

    def read(self, file: HashedFile) -> Text | None:
        """None is no failure: the text is then encoded here."""
        try:
            if file.path.stat().st_size > MAX_BYTES:
                raise ValueError("it is larger than any encoded text")
            data = file.path.read_bytes()
            if hashlib.sha256(data).hexdigest() != file.sha256:
                raise ValueError("it is not the file that was asked for")
            if metadata(data, FORMAT) != self.origin:
                raise ValueError("it is of another text or of another machine")
            tensors = safetensors.torch.load(data)
            return Text(self._fitting(tensors["embeds.prompt"]), self._fitting(tensors["embeds.negative"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            log(f"the encoded text {file.path} is passed over: {error}")
            return None

    def write(self, text: Text, path: Path) -> dict[str, Any]:
        """What is said of the file."""
        data = self.encode(text)
        write(path, data)
        return {"path": str(path), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def _fitting(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape != (1, TEXT_TOKENS, self.width) or tensor.dtype != self.dtype:
            raise ValueError(f"a tensor is {tensor.dtype} {tuple(tensor.shape)}")
        if not is_finite(tensor):
            raise ValueError("it holds NaN or infinite numbers")
        return tensor


def encoding(recipe: Recipe, pack: Pack, device: Device, width: int, dtype: torch.dtype) -> Encoding:
    origin = {
        "text_encoder": pack.hashes("text_encoder", "tokenizer"),
        "prompt_sha256": hashlib.sha256(recipe.task.prompt.encode()).hexdigest(),
        "negative_sha256": hashlib.sha256(recipe.negative_prompt.encode()).hexdigest(),
        "class": machine_word(device),
    }
    return Encoding(origin, width, dtype)
