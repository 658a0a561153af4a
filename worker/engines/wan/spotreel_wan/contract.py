"""The contract's words, as `worker/engines/protocol` defines them: what the worker asks, and how a render ends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

PROTO = (1, 1)
# sysexits.h: EX_CONFIG.
EXIT_NO_COMMON_VERSION = 78
# The worker starts the engine anew, and gives the machine up if that repeats.
EXIT_DEVICE = 86
# The longest line either side sends or takes, newline included.
MAX_LINE = 1024 * 1024
FEATURE_FAULTS = "faults"
# Of all models, or as `fast:<model>` of one: the pack has distilled weights.
FEATURE_FAST = "fast"
# It merges the LoRAs that a task names.
FEATURE_LORAS = "loras"
# The contract's words for a model's experts, in the order of their work.
EXPERTS = ("high", "low")

Message = dict[str, Any]
T = TypeVar("T")


class Refusal(Exception):
    """An end that the queue understands. `kind` decides what becomes of the task, `code` is for programs."""

    def __init__(
        self, kind: str, code: str, message: str, *, restart: bool = False, context: Message | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.code = code
        self.message = message
        self.restart = restart
        self.context = context

    def report(self, render_id: str | None) -> Message:
        return {
            "type": "error",
            "id": render_id,
            "kind": self.kind,
            "code": self.code,
            "message": self.message,
            "restart": self.restart,
            "context": self.context,
        }


@dataclass(frozen=True)
class Load:
    model: str
    profile: str | None
    # The directory of packs; absent: the one that the engine was started with.
    packs_dir: Path | None
    # The files were held against their hashes by whoever put them there.
    verified: bool
    # Files of the pack that are still on their way.
    arriving: frozenset[str]


@dataclass(frozen=True)
class Lora:
    """A file of a LoRA that the task names."""

    name: str
    path: Path
    sha256: str
    strength: float
    # `high` or `low`; None: every expert.
    expert: str | None


@dataclass(frozen=True)
class Task:
    """What to render. Whoever admitted it filled in the defaults."""

    model: str
    prompt: str
    negative_prompt: str | None
    width: int
    height: int
    frames: int
    fps: int
    quality: str | None
    steps: int
    guidance: float
    guidance_2: float | None
    shift: float
    seed: int
    image: Path | None
    loras: tuple[Lora, ...] = ()


@dataclass(frozen=True)
class HashedFile:
    path: Path
    sha256: str


@dataclass(frozen=True)
class Request:
    """One attempt at one task."""

    id: str
    attempt: int
    task: Task
    work_dir: Path
    out_dir: Path
    resume: HashedFile | None
    # The encoded text of an earlier render.
    embeddings: HashedFile | None
    every_steps: int
    min_interval_s: float
    # Number of steps between pictures of the unfinished video; 0 is never.
    preview_every: int = 0


def parse_load(message: Message) -> Load:
    """Raises as `parse_request` does."""
    packs_dir = _optional(message.get("pack_dir"), str)
    verified = message.get("verified", False)
    if not isinstance(verified, bool):
        raise TypeError(f"{verified!r} is neither true nor false")
    return Load(
        model=_typed(message["model"], str),
        profile=_optional(message.get("profile"), str),
        packs_dir=None if packs_dir is None else Path(packs_dir),
        verified=verified,
        arriving=frozenset(_typed(path, str) for path in message.get("arriving", [])),
    )


def parse_request(message: Message) -> Request:
    """Raises KeyError, TypeError or ValueError when it is none; unknown fields are left alone."""
    task = message["task"]
    return Request(
        id=_typed(message["id"], str),
        attempt=_typed(message["attempt"], int),
        task=Task(
            model=_typed(task["model"], str),
            prompt=_typed(task["prompt"], str),
            negative_prompt=_optional(task.get("negative_prompt"), str),
            width=_typed(task["width"], int),
            height=_typed(task["height"], int),
            frames=_typed(task["frames"], int),
            fps=_typed(task["fps"], int),
            quality=_optional(task.get("quality"), str),
            steps=_typed(task["steps"], int),
            guidance=_number(task["guidance"]),
            guidance_2=None if task.get("guidance_2") is None else _number(task["guidance_2"]),
            shift=_number(task["shift"]),
            seed=_typed(task["seed"], int),
            image=None if task.get("image") is None else Path(_typed(task["image"], str)),
            loras=tuple(_lora(lora) for lora in task.get("loras", [])),
        ),
        work_dir=Path(_typed(message["work_dir"], str)),
        out_dir=Path(_typed(message["out_dir"], str)),
        resume=_hashed_file(message.get("resume")),
        embeddings=_hashed_file(message.get("embeddings")),
        every_steps=_typed(message["checkpoint"]["every_steps"], int),
        min_interval_s=_number(message["checkpoint"]["min_interval_s"]),
        preview_every=0 if message.get("preview") is None else _typed(message["preview"]["every_steps"], int),
    )


def common_version(theirs: Any) -> int | None:
    """The highest version that both ranges hold."""
    low, high = _typed(theirs[0], int), _typed(theirs[1], int)
    highest = min(PROTO[1], high)
    return highest if highest >= max(PROTO[0], low) else None


def _lora(value: Any) -> Lora:
    expert = _optional(value.get("expert"), str)
    if expert not in (None, *EXPERTS):
        raise ValueError(f"{expert!r} is not one of {EXPERTS}")
    return Lora(
        name=_typed(value["name"], str),
        path=Path(_typed(value["path"], str)),
        sha256=_typed(value["sha256"], str),
        strength=_number(value["strength"]),
        expert=expert,
    )


def _hashed_file(value: Any) -> HashedFile | None:
    return None if value is None else HashedFile(Path(_typed(value["path"], str)), _typed(value["sha256"], str))


def _typed(value: Any, kind: type[T]) -> T:
    # bool is an int to Python, but not to the contract.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _optional(value: Any, kind: type[T]) -> T | None:
    return None if value is None else _typed(value, kind)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no number")
    return float(value)
