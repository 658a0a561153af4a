"""What the authors keep in float32 and diffusers rounds, as far as it is not in every block: the time projection, the
head, and with it the predictions that guidance compares."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch

# diffusers' own, and the authors'.
PRECISIONS = ("diffusers", "authors")


def widen(part: Any) -> None:
    """An expert that was just loaded."""
    embedder = part.condition_embedder
    embedder.time_proj.float()
    embedder.forward = MethodType(_conditions, embedder)
    part.proj_out = _Widened(part.proj_out)
    # The head takes the format of what comes out of the last block.
    part.blocks[-1].register_forward_hook(lambda _block, _inputs, hidden: hidden.float())


def _conditions(
    embedder: Any,
    timestep: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    encoder_hidden_states_image: None = None,
    timestep_seq_len: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
    """diffusers' `WanTimeTextImageEmbedding.forward`, without the rounding of the time. None of the three models has an
    image among the conditions."""
    times = embedder.timesteps_proj(timestep)
    if timestep_seq_len is not None:
        times = times.unflatten(0, (-1, timestep_seq_len))
    embedded = embedder.time_embedder(times.float())
    projected = embedder.time_proj(embedder.act_fn(embedded))
    return embedded, projected, embedder.text_embedder(encoder_hidden_states), encoder_hidden_states_image


class _Widened(torch.nn.Module):
    """A linear layer that counts in float32, however its weights are kept."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        # Of float8 the layer makes what it is asked in.
        self._layer = layer.float() if isinstance(layer, torch.nn.Linear) else layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._layer(x.float())
