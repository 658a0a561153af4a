"""diffusers' pipelines, but for what the engine has to see or to spare."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import WanImageToVideoPipeline, WanPipeline


class TextPipeline(WanPipeline):
    @property
    def do_classifier_free_guidance(self) -> bool:
        return _guided(self)


class ImagePipeline(WanImageToVideoPipeline):
    # The image as the transformer sees it. Given, the VAE does not encode it again.
    condition: torch.Tensor | None = None

    @property
    def do_classifier_free_guidance(self) -> bool:
        return _guided(self)

    def prepare_latents(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
        if self.condition is None:
            latents, self.condition, *mask = super().prepare_latents(*args, **kwargs)
            return latents, self.condition, *mask
        # In the pipeline's own order: image, …, dtype, device, generator, latents.
        dtype, device, latents = args[6], args[7], args[9]
        latents = latents.to(device, dtype)
        self.condition = self.condition.to(device, dtype)
        if not self.config.expand_timesteps:
            return latents, self.condition
        mask = torch.ones(1, 1, *latents.shape[2:], dtype=dtype, device=device)
        mask[:, :, 0] = 0
        return latents, self.condition, mask


def _guided(pipeline: Any) -> bool:
    """diffusers asks the first expert's guidance only; 1 there must not switch it off for the second."""
    return max(pipeline._guidance_scale, pipeline._guidance_scale_2 or 0.0) > 1.0
