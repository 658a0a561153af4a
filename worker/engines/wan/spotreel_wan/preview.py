"""A small picture of a render that goes on. Decoding a frame takes seconds and memory that the experts fill; here each
latent becomes one pixel, by a linear map to its colour."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from .decode import statistics

# Of the picture, in pixels.
LONGEST_SIDE = 320
QUALITY = 85
# What the map is fitted to: stills of coloured cells, in which neighbours differ by little, by more, and at random.
# Together 1,024 cells, for 49 unknowns at most.
CELLS = 16
COARSE = (2, 4, 8, 16)
# As many frames as make a second latent: all but the first one are of that kind.
FRAMES = 5
# Keeps what the stills do not decide small.
RIDGE = 1e-3


@torch.no_grad()
def fit(vae: Any) -> torch.Tensor:
    """The map of this VAE: a row for each channel and one for the rest, a column for each colour. In a second, from the
    weights themselves, so that a pack of another VAE needs no table of its own."""
    random = torch.Generator("cpu").manual_seed(0)
    latents, colours = [], []
    for coarse in COARSE:
        cells = torch.rand(1, 3, coarse, coarse, generator=random) * 2 - 1
        cells = torch.nn.functional.interpolate(cells, (CELLS, CELLS), mode="bilinear")
        pixels = cells.repeat_interleave(vae.config.scale_factor_spatial, 2)
        pixels = pixels.repeat_interleave(vae.config.scale_factor_spatial, 3)
        clip = pixels[:, :, None].repeat(1, 1, FRAMES, 1, 1).to(vae.device, vae.dtype)
        mean, std = statistics(vae, clip)
        latents.append(_rows((vae.encode(clip).latent_dist.mode() - mean) / std, -1))
        colours.append(cells[0].permute(1, 2, 0).reshape(-1, 3).double())
    known, wanted = torch.cat(latents), torch.cat(colours)
    square = known.T @ known + RIDGE * len(known) * torch.eye(known.shape[1], dtype=torch.float64)
    return torch.linalg.solve(square, known.T @ wanted)


def picture(latents: torch.Tensor, colours: torch.Tensor) -> Image.Image:
    """The middle frame."""
    _, _, times, rows, columns = latents.shape
    pixels = (_rows(latents, times // 2) @ colours).reshape(rows, columns, 3)
    pixels = ((pixels + 1) * 127.5).nan_to_num().round().clamp(0, 255).to(torch.uint8)
    scale = LONGEST_SIDE / max(rows, columns)
    size = round(columns * scale), round(rows * scale)
    return Image.fromarray(pixels.numpy()).resize(size, Image.Resampling.BICUBIC)


def _rows(latents: torch.Tensor, time: int) -> torch.Tensor:
    """A row for each place, with a constant at its end."""
    flat = latents[0, :, time].detach().to("cpu", torch.float64).flatten(1).T
    return torch.cat([flat, torch.ones(len(flat), 1, dtype=torch.float64)], 1)
