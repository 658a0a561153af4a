"""UniPC that begins in the middle, with the history it would have had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UniPCMultistepScheduler


@dataclass(frozen=True)
class History:
    """What the next step needs of those before it; the latents apart. It draws no randomness."""

    next_step: int
    model_outputs: tuple[torch.Tensor | None, ...]
    last_sample: torch.Tensor | None
    lower_order_nums: int
    this_order: int


class ResumableUniPC(UniPCMultistepScheduler):
    """Pipelines run it unchanged: they see the steps that are left, the solver sees all of them."""

    resume: History | None = None
    _all: torch.Tensor | None = None

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(*args, **kwargs)
        self._all = self.timesteps
        history, self.resume = self.resume, None
        if history is None:
            return
        device = self.timesteps.device
        self.model_outputs = [None if t is None else t.to(device) for t in history.model_outputs]
        self.timestep_list = [None] * self.config.solver_order
        self.last_sample = None if history.last_sample is None else history.last_sample.to(device)
        self.lower_order_nums = history.lower_order_nums
        self.this_order = history.this_order
        self._step_index = history.next_step
        # The pipeline reads the timesteps once, right after this.
        self.timesteps = self.timesteps[history.next_step :]

    def set_begin_index(self, begin_index: int = 0) -> None:
        """The pipeline says 0, which would undo a resume."""
        if self._step_index is None:
            super().set_begin_index(begin_index)

    def step(self, *args: Any, **kwargs: Any) -> Any:
        # How far the end is decides the order of the last steps, so the whole length has to be seen.
        self.timesteps = self._all
        return super().step(*args, **kwargs)

    def history(self) -> History:
        """After `step`."""
        return History(
            next_step=self._step_index,
            model_outputs=tuple(self.model_outputs),
            last_sample=self.last_sample,
            lower_order_nums=self.lower_order_nums,
            this_order=self.this_order,
        )


def timesteps(config: dict[str, Any], steps: int, shift: float) -> list[float]:
    """The whole schedule. A checkpoint made with another one is of no use."""
    scheduler = UniPCMultistepScheduler.from_config(config, flow_shift=shift)
    scheduler.set_timesteps(steps)
    return [float(t) for t in scheduler.timesteps]
