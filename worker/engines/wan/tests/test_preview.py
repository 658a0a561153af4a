"""Pictures of a render that goes on."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from engine import STEPS, of, request
from modes import every_mode
from pictures import encoded, gradient, write
from spotreel_wan import preview
from spotreel_wan.decode import statistics
from test_fast import fast
from test_resume import render


@every_mode
def test_every_kth_step_is_shown_and_the_video_is_the_same(packs, tmp_path, model, with_image):
    image = write(tmp_path / "image.png", encoded(gradient())) if with_image else None
    plain = render(packs["bfloat16"], request(tmp_path / "plain", model, image=image))
    shown = render(packs["bfloat16"], request(tmp_path / "shown", model, image=image, preview=2))
    assert of("preview", plain) == []
    seen, done = [], 0
    for message in shown:
        done = message.get("done", done)
        if message["type"] == "preview":
            with Image.open(message["path"]) as picture:
                seen.append((done, picture.format, picture.size))
    assert seen == [(step, "JPEG", (320, 240)) for step in range(2, STEPS, 2)]
    assert shown[-1]["sha256"] == plain[-1]["sha256"]


def test_a_resumed_render_and_another_solver_are_shown_as_well(packs, tmp_path):
    whole = render(packs["bfloat16"], request(tmp_path / "whole", "t2v-A14B", preview=1))
    shown = {path.name: path.read_bytes() for path in (tmp_path / "whole" / "work").glob("preview-*")}
    assert len(shown) == STEPS - 1
    resume = of("checkpoint", whole)[2]
    render(packs["bfloat16"], request(tmp_path / "last", "t2v-A14B", preview=1, resume=resume))
    again = {path.name: path.read_bytes() for path in (tmp_path / "last" / "work").glob("preview-*")}
    assert again == {name: shown[name] for name in sorted(shown)[3:]}
    quick = render(packs["bfloat16"], fast(tmp_path / "fast", "t2v-A14B", preview=1))
    assert len(of("preview", quick)) == 3


class StandIn:
    """A VAE that mixes the colours of a cell, not quite linearly: random weights keep no colours at all."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, channels, cell):
        self.config = SimpleNamespace(
            z_dim=channels, scale_factor_spatial=cell, latents_mean=[0.3] * channels, latents_std=[1.7] * channels
        )
        self.mix = torch.randn(channels, 3, generator=torch.Generator().manual_seed(1))

    def encode(self, clip):
        cells = torch.nn.functional.avg_pool3d(clip[:, :, 1:], (4, *[self.config.scale_factor_spatial] * 2))
        mixed = torch.einsum("zc,bcthw->bzthw", self.mix, cells)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: mixed + 0.1 * mixed.square()))


@pytest.mark.parametrize(("channels", "cell"), [(16, 8), (48, 16)])
def test_the_map_finds_colours_that_it_was_not_fitted_to(channels, cell):
    vae = StandIn(channels, cell)
    colours = torch.tensor([[-0.8, 0.5, 0.1], [0.9, -0.2, -0.6]])
    halves = colours[:, :, None, None].expand(2, 3, 8 * cell, 4 * cell)
    clip = torch.cat(list(halves[:, None]), -1)[:, :, None].repeat(1, 1, 9, 1, 1)
    latents = vae.encode(clip).latent_dist.mode()
    mean, std = statistics(vae, latents)
    shown = preview.picture((latents - mean) / std, preview.fit(vae))
    for at, colour in ((80, colours[0]), (240, colours[1])):
        found = torch.tensor(shown.getpixel((at, 160))) / 127.5 - 1
        assert (found - colour).abs().max() < 0.1, (found, colour)
