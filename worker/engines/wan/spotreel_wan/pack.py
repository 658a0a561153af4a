"""Model packs: a directory in diffusers' layout, and `pack.json`, which names every file with its hash.

A pack is used as it was made or not at all. Weights are safetensors; nothing in a pack can hold code.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .contract import Refusal
from .models import Model
from .scheduler import ORDER, Solver

FORMAT = "wanpack/1"
INDEX = "pack.json"
# 64 kB would do for the index of any real pack.
MAX_INDEX_BYTES = 1 << 20
# What torch.load() would open, and with it any code inside.
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
COMPUTE = ("bfloat16", "float32")
# Reads ahead as well: local disks give their best to a few readers.
READERS = 4
READ_SIZE = 8 << 20


@dataclass(frozen=True)
class PackFile:
    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class FastSteps:
    """What distilled weights were made for. Whoever admits a task fills the numbers in; the solver is chosen here."""

    steps: int
    shift: float
    guidance: float
    scheduler: Solver = "euler"


@dataclass(frozen=True)
class Fast:
    """A LoRA for each expert, or whole weights in their place. Each with the experts' files in the pack."""

    loras: dict[str, str]
    weights: dict[str, str]
    source: dict[str, Any]
    license: str
    # Older packs do not say it.
    recipe: FastSteps | None = None

    @property
    def solver(self) -> Solver:
        return "euler" if self.recipe is None else self.recipe.scheduler

    @property
    def kind(self) -> str:
        return "weights" if self.weights else "loras"

    @property
    def files(self) -> dict[str, str]:
        return self.weights or self.loras


@dataclass(frozen=True)
class Pack:
    dir: Path
    model: str
    # The number format of text encoder and transformers. The VAE always counts in float32.
    compute: str
    source: dict[str, Any]
    license: str
    # Names, in order of preference; empty: the engine's own order.
    profiles: tuple[str, ...]
    files: tuple[PackFile, ...]
    # Of pack.json, and so of everything.
    sha256: str
    # Distilled weights, for tasks of the quality `fast`.
    fast: Fast | None = None

    def hashes(self, *components: str) -> dict[str, str]:
        """Of the files in these folders."""
        return {file.path: file.sha256 for file in self.files if file.path.split("/")[0] in components}

    def file(self, path: str) -> PackFile:
        return next(file for file in self.files if file.path == path)


def open_pack(
    packs_dir: Path | None, model: Model, *, trust: bool = False, arriving: frozenset[str] = frozenset()
) -> Pack:
    """The model's pack, whole and unchanged. `trust` leaves hashing to whoever put the files there, as it is left for
    those that are still `arriving`."""
    if packs_dir is None:
        raise broken("no_packs", "no directory of model packs was named")
    directory = packs_dir / model.name
    pack = read_index(directory)
    if pack.model != model.name:
        raise broken("wrong_model", f"{directory} holds {pack.model}, not {model.name}")
    check_files(pack, model, arriving)
    if not trust:
        check_hashes(pack, arriving)
    return pack


def read_index(directory: Path) -> Pack:
    path = directory / INDEX
    try:
        with path.open("rb") as file:
            text = file.read(MAX_INDEX_BYTES)
    except OSError as error:
        raise broken("no_pack", f"{path} cannot be read: {error.strerror}") from error
    try:
        index = json.loads(text)
        if index["format"] != FORMAT:
            raise ValueError(f"the format is {index['format']!r}, not {FORMAT!r}")
        pack = Pack(
            dir=directory,
            model=str(index["model"]),
            compute=str(index["compute"]),
            source=dict(index["source"]),
            license=str(index["license"]),
            profiles=_names(index.get("profiles", [])),
            files=tuple(PackFile(str(f["path"]), int(f["bytes"]), str(f["sha256"])) for f in index["files"]),
            sha256=hashlib.sha256(text).hexdigest(),
            fast=_fast(index.get("fast")),
        )
        if pack.compute not in COMPUTE:
            raise ValueError(f"compute is {pack.compute!r}, not one of {COMPUTE}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise broken("bad_index", f"{path} is no index of a pack: {error!r}") from error
    return pack


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError("profiles are a list of names")
    return tuple(value)


def _fast(value: Any) -> Fast | None:
    if value is None:
        return None
    loras, weights = (
        {str(expert): str(path) for expert, path in value.get(kind, {}).items()} for kind in ("loras", "weights")
    )
    if bool(loras) == bool(weights):
        raise ValueError("fast has either LoRAs or weights")
    return Fast(loras, weights, dict(value["source"]), str(value["license"]), _fast_steps(value.get("recipe")))


def _fast_steps(value: Any) -> FastSteps | None:
    if value is None:
        return None
    scheduler = value.get("scheduler", "euler")
    if scheduler not in ORDER:
        raise ValueError(f"the scheduler is {scheduler!r}, not one of {sorted(ORDER)}")
    return FastSteps(int(value["steps"]), float(value["shift"]), float(value["guidance"]), scheduler)


def check_files(pack: Pack, model: Model, arriving: frozenset[str] = frozenset()) -> None:
    """Everything is there, in full length, and cannot run; of what is still arriving the rest will be seen."""
    for file in pack.files:
        inner = PurePosixPath(file.path)
        if inner.is_absolute() or ".." in inner.parts:
            raise broken("bad_index", f"{file.path} lies outside of the pack")
        if inner.suffix in PICKLES:
            raise broken("not_safetensors", f"{file.path} is a pickle; weights are safetensors only")
    wanted = set(needed(model))
    if pack.fast is not None:
        fast = pack.fast.files
        if set(fast) != set(model.experts):
            raise broken("bad_index", f"{model.name} has {pack.fast.kind} of {sorted(fast)}, not of each expert")
        wanted |= set(fast.values()) | {config_beside(path) for path in pack.fast.weights.values()}
    for path in sorted(wanted - {file.path for file in pack.files}):
        raise broken("missing_file", f"the pack of {model.name} has no {path}")
    for file in pack.files:
        if file.path not in arriving:
            measure(pack, file)


def measure(pack: Pack, file: PackFile) -> None:
    try:
        size = (pack.dir / file.path).stat().st_size
    except OSError as error:
        raise broken("missing_file", f"{file.path}: {error.strerror}") from error
    if size != file.bytes:
        raise broken("truncated", f"{file.path} has {size} bytes of {file.bytes}")


def config_beside(weights: str) -> str:
    return str(PurePosixPath(weights).parent / "config.json")


def needed(model: Model) -> list[str]:
    weights = [f"{expert}/diffusion_pytorch_model.safetensors" for expert in model.experts]
    weights += ["vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"]
    configs = [config_beside(path) for path in weights]
    tokenizer = ["tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"]
    return [*weights, *configs, *tokenizer, "scheduler/scheduler_config.json"]


def check_hashes(pack: Pack, arriving: frozenset[str] = frozenset()) -> None:
    files = [file for file in pack.files if file.path not in arriving]
    with ThreadPoolExecutor(READERS) as readers:
        for file, found in zip(files, readers.map(lambda f: hash_file(pack.dir / f.path), files)):
            if found != file.sha256:
                raise broken("sha256_mismatch", f"{file.path} is not the file that the pack was made with")


def hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(READ_SIZE):
                digest.update(chunk)
    except OSError as error:
        raise broken("unreadable", f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def seal(
    directory: Path,
    *,
    model: str,
    compute: str,
    source: dict[str, Any],
    license: str,
    profiles: list[str],
    fast: dict[str, Any] | None = None,
) -> None:
    """Writes `pack.json` over what lies in the directory."""
    paths = sorted(p for p in directory.rglob("*") if p.is_file() and p.name != INDEX)
    files = [
        {
            "path": path.relative_to(directory).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": hash_file(path),
        }
        for path in paths
    ]
    index = {
        "format": FORMAT,
        "model": model,
        "compute": compute,
        "source": source,
        "license": license,
        "profiles": profiles,
        **({} if fast is None else {"fast": fast}),
        "files": files,
    }
    part = directory / f"{INDEX}.part"
    part.write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n")
    os.replace(part, directory / INDEX)


def broken(code: str, message: str) -> Refusal:
    return Refusal("model", code, message)
