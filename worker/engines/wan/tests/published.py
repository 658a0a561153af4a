"""A model laid out as it is published, with tiny random weights: shards with their index, umT5's tokenizer files, the
published configurations' fields, and LoRA files of two trainers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

import test_tokenizer
from conftest import TINY

SHARDS = 3
# What the published files have beside the sizes, and what ours have that those lack.
TEXT_ENCODER = {"_name_or_path": "google/umt5-xxl", "torch_dtype": "bfloat16", "transformers_version": "4.48.0.dev0"}
EXTRA_FILES = {"README.md": "# Wan2.2\n", ".gitattributes": "*.safetensors filter=lfs\n", "assets/logo.png": ""}
PREFIX = "diffusion_model."


def publish(directory: Path, model: str) -> None:
    tiny = TINY / model
    shutil.copytree(tiny, directory, ignore=shutil.ignore_patterns("pack.json", "lora", "tokenizer"))
    for name, text in EXTRA_FILES.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)
    words = _tokenizer(directory / "tokenizer")
    _text_encoder(directory / "text_encoder", words)
    for part in ("transformer", "transformer_2"):
        if (directory / part).exists():
            _shard(directory / part, "diffusion_pytorch_model", load_file)
    index = json.loads((directory / "model_index.json").read_text())
    index |= {"_diffusers_version": "0.35.0.dev0", "tokenizer": ["transformers", "T5TokenizerFast"]}
    (directory / "model_index.json").write_text(json.dumps(index))


def finetune(directory: Path, model: str) -> None:
    """Transformers with other numbers, in shards, and nothing else."""
    for part in ("transformer", "transformer_2"):
        if (TINY / model / part).exists():
            shutil.copytree(TINY / model / part, directory / part)
            changed = lambda path: {name: tensor * 0.9 for name, tensor in load_file(path).items()}  # noqa: E731
            _shard(directory / part, "diffusion_pytorch_model", changed)


def loras(directory: Path) -> tuple[Path, Path]:
    """For the high-noise expert as lightx2v has it, with zeros for norms; for the other one bare and without alpha."""
    directory.mkdir()
    high = load_file(TINY / "t2v-A14B" / "lora" / "high.safetensors")
    high |= {f"{PREFIX}blocks.{number}.norm2.diff": torch.zeros(24) for number in range(2)}
    low = load_file(TINY / "t2v-A14B" / "lora" / "low.safetensors")
    low = {name.removeprefix(PREFIX): tensor for name, tensor in low.items() if not name.endswith(".alpha")}
    paths = directory / "high_noise_model.safetensors", directory / "low_noise_model.safetensors"
    for tensors, path in zip((high, low), paths):
        save_file(tensors, path)
    return paths


def _tokenizer(directory: Path) -> int:
    """How many words it has."""
    directory.mkdir()
    test_tokenizer.publish(directory)
    (directory / "spiece.model").write_bytes(b"\0")
    return Tokenizer.from_file(str(directory / "tokenizer.json")).get_vocab_size()


def _text_encoder(directory: Path, words: int) -> None:
    config: dict[str, Any] = json.loads((directory / "config.json").read_text())
    config = {key: value for key, value in config.items() if key != "dtype"} | TEXT_ENCODER | {"vocab_size": words}
    (directory / "config.json").write_text(json.dumps(config))
    table = torch.randn(words, config["d_model"], generator=torch.Generator().manual_seed(0))

    def load(path: Path) -> dict[str, torch.Tensor]:
        tensors = load_file(path)
        named = [name for name in ("shared.weight", "encoder.embed_tokens.weight") if name in tensors]
        tensors |= {name: table.clone() for name in named}
        return {name: tensor.bfloat16() for name, tensor in tensors.items()}

    _shard(directory, "model", load)


def _shard(directory: Path, name: str, load: Any) -> None:
    whole = directory / f"{name}.safetensors"
    tensors = load(whole)
    whole.unlink()
    names = sorted(tensors)
    weight_map = {}
    for number in range(SHARDS):
        shard = f"{name}-{number + 1:05}-of-{SHARDS:05}.safetensors"
        mine = names[number::SHARDS]
        save_file({key: tensors[key].contiguous() for key in mine}, directory / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(mine, shard)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (directory / f"{name}.safetensors.index.json").write_text(json.dumps(index))
