"""Solvers that begin in the middle, with the history they would have had. Pipelines run them unchanged: they see the
steps that are left, the solver sees all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

# Euler is what distilled weights were made for.
Solver = Literal["unipc", "euler"]
# How many earlier results each goes on from.
ORDER: dict[Solver, int] = {"unipc": 2, "euler": 0}


@dataclass(frozen=True)
class History:
    """What the next step needs of those before it; the latents apart. It draws no randomness."""

    next_step: int
    model_outputs: tuple[torch.Tensor | None, ...] = ()
    last_sample: torch.Tensor | None = None
    lower_order_nums: int = 0
    this_order: int = 0

    def on_host(self) -> History:
        return History(
            self.next_step,
            tuple(copy_to_host(output) for output in self.model_outputs),
            copy_to_host(self.last_sample),
            self.lower_order_nums,
            self.this_order,
        )


class ResumableUniPC(UniPCMultistepScheduler):
    resume: History | None = None
    _all: torch.Tensor | None = None

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(*args, **kwargs)
        self._all = self.timesteps
        # Left alone, the solver looks for the place of the first timestep. With a high shift whole numbers repeat
        # (999, 999), and it takes the second.
        self._step_index = 0
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

    def step(self, *args: Any, **kwargs: Any) -> Any:
        # How far the end is decides the order of the last steps, so the whole length has to be seen.
        self.timesteps = self._all
        return super().step(*args, **kwargs)

    def clean(self) -> torch.Tensor | None:
        """After `step`: what it took for the finished latents."""
        return self.model_outputs[-1]

    def history(self) -> History:
        """After `step`."""
        return History(
            self._step_index, tuple(self.model_outputs), self.last_sample, self.lower_order_nums, self.this_order
        )


class ResumableEuler(FlowMatchEulerDiscreteScheduler):
    resume: History | None = None
    _clean: torch.Tensor | None = None

    def set_timesteps(self, steps: int, device: str | torch.device | None = None) -> None:
        # Evenly from pure noise, less the end: what the weights were distilled for. Left to itself the solver would
        # take its last step from almost no noise.
        super().set_timesteps(steps, device, sigmas=np.linspace(1.0, 1.0 / steps, steps).tolist())
        self._step_index = 0
        history, self.resume = self.resume, None
        if history is not None:
            self._step_index = history.next_step
            self.timesteps = self.timesteps[history.next_step :]

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        # In the format of the transformer the latents would lose most of their digits.
        model_output = model_output.float()
        self._clean = sample - self.sigmas[self._step_index] * model_output
        return super().step(model_output, timestep, sample, *args, **kwargs)

    def clean(self) -> torch.Tensor | None:
        return self._clean

    def history(self) -> History:
        return History(self._step_index)


def make(solver: Solver, config: dict[str, Any], shift: float) -> ResumableUniPC | ResumableEuler:
    """`config`: the pack's, which is UniPC's."""
    if solver == "euler":
        return ResumableEuler(num_train_timesteps=config["num_train_timesteps"], shift=shift)
    return ResumableUniPC.from_config(config, flow_shift=shift)


def timesteps(solver: Solver, config: dict[str, Any], steps: int, shift: float) -> list[float]:
    """The whole schedule. A checkpoint made with another one is of no use."""
    scheduler = make(solver, config, shift)
    scheduler.set_timesteps(steps)
    return [float(t) for t in scheduler.timesteps]


def copy_to_host(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.detach().to("cpu", copy=True)
