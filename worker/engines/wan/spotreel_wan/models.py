"""The three models of Wan2.2: what each is made of and what it takes.

Figures: Wan-Video/Wan2.2, `wan/configs/*.py`. Names are compared whole: "i2v" is a part of "ti2v-5B".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .contract import EXPERTS

TEXT_TOKENS = 512
FRAMES_PER_LATENT = 4
TRAIN_TIMESTEPS = 1000

NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，"
    "手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)


@dataclass(frozen=True)
class Model:
    name: str
    image: Literal["required", "optional", "refused"]
    # Sides are multiples of this: a latent's pixels times the two that a patch takes.
    side_multiple: int
    max_pixels: int
    # The smallest size that the authors offer; others are for tests.
    least_pixels: int
    max_frames: int
    # Channels of the latents, and of what the transformer takes: with an image there are more.
    latent_channels: int
    in_channels: int
    pixels_per_latent: int
    # Timesteps from this share of 1000 on belong to the high-noise expert; None: there is one transformer.
    boundary: float | None

    @property
    def times_per_token(self) -> bool:
        """Whether a first frame is kept by telling each token how much noise it has, rather than by more channels."""
        return self.image == "optional"

    @property
    def experts(self) -> tuple[str, ...]:
        """diffusers' names, high noise first."""
        return ("transformer",) if self.boundary is None else ("transformer", "transformer_2")

    def word(self, expert: str) -> str | None:
        """The contract's word for one of `experts`."""
        return None if self.boundary is None else EXPERTS[self.experts.index(expert)]

    def expert(self, timestep: float) -> str | None:
        """Which one takes this timestep, in the contract's words."""
        if self.boundary is None:
            return None
        return EXPERTS[timestep < self.boundary * TRAIN_TIMESTEPS]

    @property
    def least_tokens(self) -> int:
        """Of the smallest size on offer, at full length."""
        return self._tokens(self.least_pixels)

    @property
    def most_tokens(self) -> int:
        return self._tokens(self.max_pixels)

    def _tokens(self, pixels: int) -> int:
        return ((self.max_frames - 1) // FRAMES_PER_LATENT + 1) * pixels // self.side_multiple**2

    def latent_shape(self, width: int, height: int, frames: int) -> tuple[int, int, int, int, int]:
        times = (frames - 1) // FRAMES_PER_LATENT + 1
        return 1, self.latent_channels, times, height // self.pixels_per_latent, width // self.pixels_per_latent

    def tokens(self, width: int, height: int, frames: int) -> int:
        """What attention sees: patches of 2 by 2 latents."""
        _, _, times, rows, columns = self.latent_shape(width, height, frames)
        return times * (rows // 2) * (columns // 2)


MODELS = {
    model.name: model
    for model in (
        Model("ti2v-5B", "optional", 32, 1280 * 704, 1280 * 704, 121, 48, 48, 16, None),
        Model("t2v-A14B", "refused", 16, 1280 * 720, 832 * 480, 81, 16, 16, 8, 0.875),
        Model("i2v-A14B", "required", 16, 1280 * 720, 832 * 480, 81, 16, 36, 8, 0.900),
    )
}
