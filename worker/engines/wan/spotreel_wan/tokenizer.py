"""The tokenizer that `tokenizer.json` describes, and no other. From the class that the published configuration names,
transformers rebuilds one with another unknown id and without the file's normaliser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import BatchEncoding


def load(pack: Path) -> FileTokenizer:
    """A pack's, as renders have it."""
    return FileTokenizer(pack / "tokenizer")


class FileTokenizer:
    """As pipelines call it."""

    def __init__(self, directory: Path) -> None:
        self._core = Tokenizer.from_file(str(directory / "tokenizer.json"))
        # Files may carry what was set when they were saved. Here texts are counted before any would be cut.
        self._core.no_truncation()
        self._core.no_padding()
        config = json.loads((directory / "tokenizer_config.json").read_text())
        self._pad, end = (self._id(config, name) for name in ("pad_token", "eos_token"))
        if self.ids("")[-1:] != [end]:
            raise ValueError("it does not end a text with eos_token")

    def ids(self, text: str) -> list[int]:
        return self._core.encode(text).ids

    def __call__(self, texts: list[str], *, max_length: int, **_: Any) -> BatchEncoding:
        """Padded to the length."""
        rows = [self.ids(text) for text in texts]
        if any(len(row) > max_length for row in rows):
            raise ValueError(f"a text has more than {max_length} tokens")
        padded = [row + [self._pad] * (max_length - len(row)) for row in rows]
        mask = [[1] * len(row) + [0] * (max_length - len(row)) for row in rows]
        return BatchEncoding({"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)})

    def _id(self, config: dict[str, Any], name: str) -> int:
        token = config[name]
        found = self._core.token_to_id(token["content"] if isinstance(token, dict) else token)
        if found is None:
            raise ValueError(f"{name} {token!r} is no token of it")
        return found
