"""Latents into frames, a few at a time, so that no machine has to hold a whole video."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

from .finite import check_finite
from .models import FRAMES_PER_LATENT


def frames(vae: Any, latents: torch.Tensor, *, tiled: bool) -> Iterator[np.ndarray]:
    """uint8, (frames, height, width, 3); what the pipeline's own decoding gives, rounded as diffusers rounds."""
    z = _unscale(vae, latents.to(dtype=vae.dtype))
    chunks = _in_tiles(vae, z) if tiled else _in_time(vae, z)
    for chunk in chunks:
        check_finite(chunk, "the decoded frames")
        for few in chunk.split(FRAMES_PER_LATENT, dim=2):
            yield (few * 0.5 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)[0].permute(1, 2, 3, 0).cpu().numpy()


def _unscale(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    mean, std = statistics(vae, latents)
    return latents / (1.0 / std) + mean


def statistics(vae: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of the VAE's latents, by channel; a transformer's are without them."""
    shape = (1, vae.config.z_dim, 1, 1, 1)
    values = (vae.config.latents_mean, vae.config.latents_std)
    mean, std = (torch.tensor(value).view(shape).to(like.device, like.dtype) for value in values)
    return mean, std


def _in_time(vae: Any, z: torch.Tensor) -> Iterator[torch.Tensor]:
    """`AutoencoderKLWan._decode`, which hands its frames out instead of keeping them. The decoder is causal: what it
    remembers of the frames before lies in `_feat_map`."""
    with torch.no_grad():
        vae.clear_cache()
        x = vae.post_quant_conv(z)
    try:
        for i in range(z.shape[2]):
            with torch.no_grad():
                vae._conv_idx = [0]
                out = vae.decoder(
                    x[:, :, i : i + 1], feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=i == 0
                )
                if vae.config.patch_size is not None:
                    out = unpatchify(out, patch_size=vae.config.patch_size)
                out = out.clamp(-1.0, 1.0)
            yield out
    finally:
        vae.clear_cache()


def _in_tiles(vae: Any, z: torch.Tensor) -> Iterator[torch.Tensor]:
    """Less memory at a time, a fifth more work, and seams that are blended: not the same pixels."""
    vae.enable_tiling()
    try:
        with torch.no_grad():
            yield vae.decode(z, return_dict=False)[0]
    finally:
        vae.use_tiling = False
        vae.clear_cache()
