"""What the authors keep in float32: nothing changes where all is in float32, and something where it is not."""

import pytest
import torch
from safetensors.torch import load_file

from engine import of, request
from modes import every_mode
from pictures import encoded, gradient, write
from spotreel_wan.tuning import Tuning
from test_resume import render

AUTHORS = Tuning(precision="authors")


def latents(heard):
    return load_file(of("checkpoint", heard)[-1]["path"])["latents"]


@every_mode
def test_in_float32_it_is_diffusers_and_in_bfloat16_it_comes_nearer_to_that(packs, tmp_path, model, with_image):
    image = write(tmp_path / "image.png", encoded(gradient())) if with_image else None

    def rendered(compute, name, tuning):
        asked = request(tmp_path / f"{compute}-{name}", model, image=image, steps=3)
        return latents(render(packs[compute], asked, tuning=tuning))

    exact = rendered("float32", "diffusers", Tuning())
    assert torch.equal(rendered("float32", "authors", AUTHORS), exact)
    rounded, kept = rendered("bfloat16", "diffusers", Tuning()), rendered("bfloat16", "authors", AUTHORS)
    assert (kept - exact).norm() < (rounded - exact).norm()


@pytest.mark.parametrize("profile", ["swap", "swap-float8"])
def test_it_is_a_class_of_its_own_and_resumes_exactly_in_it(packs, tmp_path, profile):
    how = {"profile": profile, "tuning": AUTHORS}
    whole = render(packs["bfloat16"], request(tmp_path / "whole", "t2v-A14B"), **how)
    assert whole[-1]["meta"]["class"]["precision"] == "authors"
    resume = of("checkpoint", whole)[2]
    again = render(packs["bfloat16"], request(tmp_path / "again", "t2v-A14B", resume=resume), **how)
    assert of("accepted", again)[0]["resume"] == "exact"
    assert again[-1]["sha256"] == whole[-1]["sha256"]
    other = render(packs["bfloat16"], request(tmp_path / "other", "t2v-A14B", resume=resume), profile=profile)
    assert of("accepted", other)[0]["resume"] == "approximate"
