"""A task, checked, and the hash that names its result."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass

from .contract import Refusal, Task
from .lora import Adapter
from .models import FRAMES_PER_LATENT, MODELS, NEGATIVE_PROMPT, Model
from .pack import Fast, Pack
from .scheduler import Solver

LEAST_SIDE = 64
MAX_FPS = 60
# As intake admits them.
MAX_STEPS = 60
GUIDANCE = (1.0, 10.0)
SHIFT = (1.0, 20.0)
MAX_SEED = 2**53 - 1
# The tier that needs distilled weights. The others differ in numbers only.
FAST = "fast"
# Raise it when the same task gives another picture: older checkpoints are then refused.
PICTURE_VERSION = 2


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the picture, but for the machine."""

    task: Task
    model: Model
    image_sha256: str | None
    pack_sha256: str
    # What the pack has for the quality `fast`, for tasks of it.
    fast: Fast | None = None
    # The hashes of those files, by expert.
    distilled: dict[str, str] | None = None

    @property
    def solver(self) -> Solver:
        return "unipc" if self.fast is None else self.fast.solver

    @property
    def negative_prompt(self) -> str:
        """Absent is the model's own; empty is really empty."""
        return NEGATIVE_PROMPT if self.task.negative_prompt is None else self.task.negative_prompt

    @property
    def guidance_2(self) -> float | None:
        """The low-noise expert's; where there is none, nothing is to be said to it."""
        if self.model.boundary is None:
            return None
        return self.task.guidance if self.task.guidance_2 is None else self.task.guidance_2

    def adapters(self, expert: str, pack: Pack) -> tuple[Adapter, ...]:
        """What is merged into an expert: the distilled LoRA, then what the task names, in its order."""
        found = []
        if self.fast is not None and self.distilled is not None and self.fast.loras:
            found.append(Adapter(self.distilled[expert], 1.0, pack.dir / self.fast.loras[expert]))
        for lora in self.task.loras:
            if lora.expert in (None, self.model.word(expert)):
                found.append(Adapter(lora.sha256, lora.strength, lora.path, lora.name))
        return tuple(found)

    @property
    def task_hash(self) -> str:
        task = self.task
        parts = {
            "picture": PICTURE_VERSION,
            "model": task.model,
            "pack": self.pack_sha256,
            "prompt": task.prompt,
            "negative_prompt": self.negative_prompt,
            "size": [task.width, task.height, task.frames, task.fps],
            "steps": task.steps,
            "guidance": [task.guidance, self.guidance_2],
            "shift": task.shift,
            "seed": task.seed,
            "image": self.image_sha256,
        }
        if self.fast is not None:
            parts |= {self.fast.kind: self.distilled, "solver": self.solver}
        if task.loras:
            parts["task_loras"] = [[lora.sha256, lora.strength, lora.expert] for lora in task.loras]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def check(task: Task) -> Model:
    """Refuses what cannot be rendered exactly as asked; nothing is rounded."""
    model = MODELS.get(task.model)
    if model is None:
        raise Refusal("invalid", "model", f"there is no model {task.model!r}")
    step = model.side_multiple
    guidances = [task.guidance] + ([] if task.guidance_2 is None else [task.guidance_2])
    rules = [
        (bool(task.prompt.strip()), "prompt", "the prompt is empty"),
        (task.width % step == 0 and task.height % step == 0, "size", f"width and height must be multiples of {step}"),
        (min(task.width, task.height) >= LEAST_SIDE, "size", f"width and height must be {LEAST_SIDE} at least"),
        (task.width * task.height <= model.max_pixels, "size", f"at most {model.max_pixels} pixels"),
        (
            1 <= task.frames <= model.max_frames and (task.frames - 1) % FRAMES_PER_LATENT == 0,
            "frames",
            f"frames must be 4n+1, at most {model.max_frames}",
        ),
        (1 <= task.fps <= MAX_FPS, "fps", f"fps must be 1 to {MAX_FPS}"),
        (1 <= task.steps <= MAX_STEPS, "steps", f"steps must be 1 to {MAX_STEPS}"),
        (all(GUIDANCE[0] <= g <= GUIDANCE[1] for g in guidances), "guidance", f"guidance must be within {GUIDANCE}"),
        (SHIFT[0] <= task.shift <= SHIFT[1], "shift", f"shift must be within {SHIFT}"),
        (0 <= task.seed <= MAX_SEED, "seed", f"seed must be 0 to {MAX_SEED}"),
        (task.image is not None or model.image != "required", "image", "this model starts from an image"),
        (task.image is None or model.image != "refused", "image", "this model takes no image"),
        (
            all(lora.expert is None or model.boundary is not None for lora in task.loras),
            "lora",
            "this model has one expert only",
        ),
        (all(math.isfinite(lora.strength) for lora in task.loras), "lora", "a strength is no number"),
    ]
    for holds, code, message in rules:
        if not holds:
            raise Refusal("invalid", code, message)
    return model


def make(task: Task, model: Model, pack: Pack) -> Recipe:
    """Of a task that was checked, as yet without its image."""
    if task.quality != FAST:
        return Recipe(task, model, None, pack.sha256)
    if pack.fast is None:
        message = f"the pack of {task.model} has no distilled weights for {FAST}: submit it as standard"
        raise Refusal("invalid", "quality", message)
    distilled = {expert: pack.file(path).sha256 for expert, path in pack.fast.files.items()}
    return Recipe(task, model, None, pack.sha256, pack.fast, distilled)
