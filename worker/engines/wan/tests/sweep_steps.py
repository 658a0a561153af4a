"""Every number of steps, shift and way to render, resumed from every step; through diffusers' pipelines and checkpoint
files, with a formula in the transformers' place.

    python tests/sweep_steps.py [SHIFT …]     default: those below
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from conftest import TINY
from modes import MODES
from pictures import gradient
from spotreel_wan import recipe
from spotreel_wan.checkpoint import Maker, Snapshot
from spotreel_wan.contract import HashedFile, Task
from spotreel_wan.denoise import Denoiser
from spotreel_wan.device import open_device
from spotreel_wan.embeddings import Text
from spotreel_wan.lora import Deltas
from spotreel_wan.models import MODELS, TEXT_TOKENS
from spotreel_wan.pack import open_pack
from spotreel_wan.profile import PROFILES
from spotreel_wan.scheduler import make, timesteps
from spotreel_wan.shelf import Shelf
from spotreel_wan.tuning import Tuning
from spotreel_wan.weights import blueprint

SIDE = 64
# The least and the most, the official ones, and some between.
SHIFTS = (20.0, 12.0, 5.0, 3.0, 1.0, 2.0, 8.0, 16.0)


class Formula(torch.nn.Module):
    """Depends on all that a transformer does."""

    def __init__(self, factor: float, channels: int) -> None:
        super().__init__()
        self._factor = factor
        self._channels = channels

    def cache_context(self, *_: Any, **__: Any) -> torch.no_grad:
        return torch.no_grad()

    def forward(
        self, hidden_states: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor, **_: Any
    ) -> tuple[torch.Tensor]:
        seen = hidden_states.float()
        moved = seen[:, : self._channels] * self._factor + seen.mean() + encoder_hidden_states.float().mean()
        return (torch.sin(moved + timestep.float().mean() / 300),)


class FormulaShelf(Shelf):
    def _load(self, name: str, path: str, deltas: Deltas | None = None) -> torch.nn.Module:
        if name in self.model.experts:
            return Formula(1.0 + 0.3 * self.model.experts.index(name) + 0.1 * bool(deltas), self.model.latent_channels)
        return super()._load(name, path, deltas)


class Stop(Exception):
    pass


@dataclass(frozen=True)
class Way:
    """A model, with or without a first frame, in a quality."""

    name: str
    shelf: Shelf
    image: bool
    fast: bool


def ways() -> list[Way]:
    found, device = [], open_device("cpu")
    for name, (model, image) in MODES.items():
        pack = open_pack(TINY, MODELS[model])
        shelf = FormulaShelf(pack, blueprint(pack, MODELS[model]), PROFILES["resident"], device, Tuning())
        found.append(Way(name, shelf, image, fast=False))
        if pack.fast is not None:
            found.append(Way(f"{name} fast", shelf, image, fast=True))
    return found


def check(way: Way, steps: int, shift: float, file: Path) -> int:
    """How many steps it was resumed from. To go on from step k and come to the state of step k + 1, for each k, is to
    come from each to the end."""
    task = Task(
        model=way.shelf.model.name,
        prompt="",
        negative_prompt=None,
        width=SIDE,
        height=SIDE,
        frames=1,
        fps=16,
        quality="fast" if way.fast else None,
        steps=steps,
        guidance=1.0 if way.fast else 4.0,
        guidance_2=None,
        shift=shift,
        seed=7,
        image=None,
    )
    made = recipe.make(task, way.shelf.model, way.shelf.pack)
    made = replace(made, image_sha256="image" if way.image else None)
    maker = Maker(made, timesteps(made.solver, way.shelf.scheduler_config, steps, shift), {})
    text = Text(torch.full((1, TEXT_TOKENS, 2), 0.1), torch.full((1, TEXT_TOKENS, 2), -0.1))
    image = gradient(SIDE, SIDE) if way.image else None

    denoiser = Denoiser(way.shelf, made, image)
    states: list[Snapshot] = []
    result = denoiser.run(denoiser.start(text), lambda snapshot, _: states.append(snapshot))
    assert [state.next_step for state in states] == list(range(1, steps + 1)), "each step once"
    assert torch.isfinite(result).all()
    saved = [maker.encode(state) for state in states]

    for k in range(1, steps):
        file.write_bytes(saved[k - 1])
        resumed, how = maker.read(HashedFile(file, hashlib.sha256(saved[k - 1]).hexdigest()))
        assert how == "exact"
        reached: list[Snapshot] = []

        def one_step(snapshot: Snapshot, _: float, reached: list[Snapshot] = reached, k: int = k) -> None:
            reached.append(snapshot)
            if k + 1 < steps:
                raise Stop

        denoiser._pipeline.scheduler, end = make(made.solver, way.shelf.scheduler_config, shift), None
        try:
            end = denoiser.run(resumed, one_step)
        except Stop:
            pass
        assert maker.encode(reached[0]) == saved[k], f"from step {k}"
        assert end is None or torch.equal(end, result)
    return steps - 1


def sweep(way: Way, several: Iterable[float], steps: Iterable[int] = range(1, recipe.MAX_STEPS + 1)) -> Counter[str]:
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        for shift in several:
            for number in steps:
                try:
                    seen["resumes"] += check(way, number, shift, Path(directory) / "checkpoint")
                except Exception as error:
                    raise AssertionError(f"{way.name}, {number} steps, shift {shift}") from error
                seen["renders"] += 1
                times = timesteps("euler" if way.fast else "unipc", way.shelf.scheduler_config, number, shift)
                seen["with repeated timesteps"] += len(set(times)) < len(times)
    return seen


if __name__ == "__main__":
    torch.set_num_threads(1)
    total: Counter[str] = Counter()
    for one in ways():
        found = sweep(one, [float(shift) for shift in sys.argv[1:]] or SHIFTS)
        total += found
        print(one.name, dict(found), flush=True)
    print("all", dict(total))
