"""From a recipe to the latents of its video, by diffusers' own pipelines."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from .checkpoint import Snapshot
from .contract import Refusal
from .embeddings import Text
from .models import TEXT_TOKENS
from .pipelines import ImagePipeline, TextPipeline
from .recipe import Recipe
from .scheduler import History, copy_to_host, make
from .shelf import Shelf

# A snapshot after a whole step, and the step's seconds. May raise, which ends the render.
OnStep = Callable[[Snapshot, float], None]


class Denoiser:
    def __init__(self, shelf: Shelf, recipe: Recipe, image: Image.Image | None) -> None:
        self._shelf = shelf
        self._recipe = recipe
        self._image = image
        self._pipeline = self._build()

    def count_tokens(self, prompt: str) -> int:
        """As the pipeline would count them, if it did."""
        return len(self._shelf.tokenizer.ids(prompt_clean(prompt)))

    def check_prompts(self) -> dict[str, int]:
        """Longer prompts would be cut without a word."""
        task = self._recipe.task
        counts = {"prompt": self.count_tokens(task.prompt), "negative": self.count_tokens(self._recipe.negative_prompt)}
        for which, count in counts.items():
            if count > TEXT_TOKENS:
                message = f"the {which} prompt has {count} tokens, {TEXT_TOKENS} at most"
                raise Refusal("invalid", "prompt_too_long", message, context={"tokens": count, "max": TEXT_TOKENS})
        return counts

    @torch.no_grad()
    def encode_text(self) -> Text:
        prompt, negative = self._pipeline.encode_prompt(
            prompt=self._recipe.task.prompt,
            negative_prompt=self._recipe.negative_prompt,
            do_classifier_free_guidance=True,
            max_sequence_length=TEXT_TOKENS,
            device=self._shelf.device.torch,
        )
        return Text(prompt.cpu(), negative.cpu())

    def start(self, text: Text) -> Snapshot:
        """Step 0: noise."""
        task = self._recipe.task
        shape = self._recipe.model.latent_shape(task.width, task.height, task.frames)
        # From the CPU: GPUs draw other noise from the same seed, each kind its own.
        noise = randn_tensor(shape, generator=torch.Generator("cpu").manual_seed(task.seed), dtype=torch.float32)
        return Snapshot(
            history=History(0, (None, None)),
            phase="denoise",
            latents=noise,
            prompt_embeds=text.prompt,
            negative_embeds=text.negative,
        )

    def run(self, start: Snapshot, on_step: OnStep) -> torch.Tensor:
        """All steps from `start` on. The result lies where it was made."""
        if start.phase == "decode":
            return start.latents.to(self._shelf.device.torch)
        task = self._recipe.task
        scheduler = self._pipeline.scheduler
        if start.next_step > 0:
            scheduler.resume = start.history
        if self._image is not None:
            self._pipeline.condition = start.condition
        arguments: dict[str, Any] = {} if self._image is None else {"image": self._image}
        try:
            return self._pipeline(
                **arguments,
                height=task.height,
                width=task.width,
                num_frames=task.frames,
                num_inference_steps=task.steps,
                guidance_scale=task.guidance,
                guidance_scale_2=self._recipe.guidance_2,
                latents=start.latents,
                prompt_embeds=start.prompt_embeds.to(self._shelf.device.torch),
                negative_prompt_embeds=start.negative_embeds.to(self._shelf.device.torch),
                output_type="latent",
                callback_on_step_end=_Watch(start, on_step),
                max_sequence_length=TEXT_TOKENS,
            ).frames
        finally:
            self._pipeline.maybe_free_model_hooks()

    def _build(self) -> Any:
        model, shelf = self._recipe.model, self._shelf
        kind = TextPipeline if self._image is None else ImagePipeline
        recipe = self._recipe
        experts = {
            expert: shelf.slot(expert, recipe.adapters(expert, shelf.pack), recipe.fast is not None)
            for expert in model.experts
        }
        pipeline = kind(
            tokenizer=shelf.tokenizer,
            text_encoder=shelf.slot("text_encoder"),
            vae=shelf.vae,
            scheduler=make(self._recipe.solver, shelf.scheduler_config, self._recipe.task.shift),
            **experts,
            boundary_ratio=model.boundary,
            # Without a first frame one time for all would do, and spare 3 GB; but in float32 it gives other bits.
            expand_timesteps=model.times_per_token,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


class _Watch:
    """Copies the state to the host after every step: whoever asks for a checkpoint need not wait for the next."""

    def __init__(self, start: Snapshot, on_step: OnStep) -> None:
        self._start = start
        self._on_step = on_step
        self._began = time.monotonic()
        self._condition = start.condition

    def __call__(self, pipeline: Any, _index: int, _timestep: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        if self._condition is None:
            self._condition = copy_to_host(getattr(pipeline, "condition", None))
        on_host = Snapshot(
            history=pipeline.scheduler.history().on_host(),
            phase="denoise",
            latents=copy_to_host(tensors["latents"]),
            prompt_embeds=self._start.prompt_embeds,
            negative_embeds=self._start.negative_embeds,
            condition=self._condition,
            clean=copy_to_host(pipeline.scheduler.clean()),
        )
        # The copies waited for the device, so this is the step's own time.
        now = time.monotonic()
        seconds, self._began = now - self._began, now
        self._on_step(on_host, seconds)
        self._began = time.monotonic()
        return {}
