"""Killed at every step and while it decodes, gone on with in a new process: not one byte differs."""

import json
import signal

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine import STEPS, Engine, of, request
from modes import every_format, every_mode
from pictures import encoded, gradient, write
from spotreel_wan import decode
from test_checkpoints import sha256


def render(packs, asked, **how):
    with Engine(packs, **how) as engine:
        assert engine.load(asked["task"]["model"])["type"] == "ready"
        heard = engine.render(asked)
        if heard[-1]["type"] == "finished":
            return heard
        return heard, engine.exit_status()


def kill_while_decoding():
    """After the first frames have gone to ffmpeg."""
    whole = decode.frames

    def two_chunks(*arguments, **named):
        chunks = whole(*arguments, **named)
        yield next(chunks)
        yield next(chunks)
        signal.raise_signal(signal.SIGKILL)

    decode.frames = two_chunks


def at_checkpoint(step):
    return lambda message: message["type"] == "checkpoint" and message["next_step"] == step


@every_mode
@every_format
def test_a_render_that_is_killed_at_every_step_is_the_uninterrupted_one(packs, tmp_path, model, with_image, compute):
    image = write(tmp_path / "image.png", encoded(gradient())) if with_image else None
    whole = render(packs[compute], request(tmp_path / "whole", model, image=image))
    resume = None
    for step in range(1, STEPS + 1):
        asked = request(tmp_path / f"killed-{step}", model, image=image, resume=resume)
        heard, status = render(packs[compute], asked, kill_at=at_checkpoint(step))
        assert status == -signal.SIGKILL
        accepted = of("accepted", heard)[0]
        assert (accepted["start_step"], accepted["resume"]) == (step - 1, "none" if step == 1 else "exact")
        resume = of("checkpoint", heard)[-1]
        assert resume["next_step"] == step
    asked = request(tmp_path / "decoding", model, image=image, resume=resume)
    heard, status = render(packs[compute], asked, hook=kill_while_decoding)
    assert status == -signal.SIGKILL
    assert of("phase", heard)[-1]["name"] == "decode"
    last = render(packs[compute], request(tmp_path / "last", model, image=image, resume=resume))
    assert of("step", last) == []
    assert last[-1]["sha256"] == whole[-1]["sha256"]
    latents = load_file(of("checkpoint", whole)[-1]["path"])["latents"]
    assert torch.equal(load_file(resume["path"])["latents"], latents)


@every_mode
def test_what_was_done_since_the_last_checkpoint_is_done_again(packs, tmp_path, model, with_image):
    image = write(tmp_path / "image.png", encoded(gradient())) if with_image else None
    whole = render(packs["bfloat16"], request(tmp_path / "whole", model, image=image))
    asked = request(tmp_path / "killed", model, image=image, every=3)
    heard, status = render(packs["bfloat16"], asked, kill_at=lambda m: m["type"] == "step" and m["done"] == 5)
    assert status == -signal.SIGKILL
    resume = of("checkpoint", heard)[-1]
    # The experts' boundary brings one that nobody asked for.
    assert resume["next_step"] == {"ti2v-5B": 3, "t2v-A14B": 4, "i2v-A14B": 3}[model]
    last = render(packs["bfloat16"], request(tmp_path / "last", model, image=image, resume=resume))
    assert last[-1]["sha256"] == whole[-1]["sha256"]


def test_the_solvers_history_matters(packs, tmp_path):
    """Were it not so, the tests above would prove nothing."""
    whole = render(packs["float32"], request(tmp_path / "whole", "t2v-A14B"))
    middle = of("checkpoint", whole)[2]
    tensors = load_file(middle["path"])
    with safe_open(middle["path"], framework="pt") as file:
        state = json.loads(file.metadata()["wanckpt/1"])
    for name in ("model_outputs.0", "model_outputs.1", "last_sample"):
        tensors[name] = torch.zeros_like(tensors[name])
    forged = tmp_path / "forged.ckpt"
    save_file(tensors, forged, {"wanckpt/1": json.dumps(state)})
    resume = {"path": str(forged), "sha256": sha256(forged)}
    heard = render(packs["float32"], request(tmp_path / "last", "t2v-A14B", resume=resume))
    assert heard[-1]["sha256"] != whole[-1]["sha256"]


@pytest.mark.parametrize("profile", ["swap", "swap-float8"])
def test_other_profiles_resume_as_exactly(packs, tmp_path, profile):
    whole = render(packs["bfloat16"], request(tmp_path / "whole", "t2v-A14B"), profile=profile)
    for step in (2, 4, 5):
        resume = of("checkpoint", whole)[step - 1]
        asked = request(tmp_path / str(step), "t2v-A14B", resume=resume)
        last = render(packs["bfloat16"], asked, profile=profile)
        assert of("accepted", last)[0]["resume"] == "exact"
        assert last[-1]["sha256"] == whole[-1]["sha256"]


def test_another_class_of_machine_goes_on_approximately(packs, tmp_path):
    whole = render(packs["bfloat16"], request(tmp_path / "whole", "t2v-A14B"), profile="swap-float8")
    resume = of("checkpoint", whole)[2]
    last = render(packs["bfloat16"], request(tmp_path / "last", "t2v-A14B", resume=resume), profile="resident")
    assert of("accepted", last)[0]["resume"] == "approximate"
    assert last[-1]["meta"]["resume"] == "approximate"
