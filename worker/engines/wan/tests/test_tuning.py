"""Switches for speed: in one class the bytes are equal, resumed or not; in another they may differ, and it is said."""

import os
import shutil
import signal

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file

from engine import STEPS, Engine, of, request
from modes import every_mode
from pictures import encoded, gradient, write
from spotreel_wan import shelf
from spotreel_wan.ahead import read_ahead
from spotreel_wan.tuning import Tuning, tuning
from test_resume import at_checkpoint, render

MODEL = "t2v-A14B"
# Random weights change their minds at every step: with diffusers' own threshold nothing would ever be left out.
CACHE = Tuning(cache=0.9)


def latents(heard):
    return load_file(of("checkpoint", heard)[-1]["path"])["latents"]


@every_mode
@pytest.mark.parametrize("profile", ["resident", "swap"])
def test_with_a_cache_a_render_that_is_killed_is_still_the_uninterrupted_one(
    packs, tmp_path, model, with_image, profile
):
    image = write(tmp_path / "image.png", encoded(gradient())) if with_image else None
    how = {"profile": profile, "tuning": CACHE}
    whole = render(packs["bfloat16"], request(tmp_path / "whole", model, image=image, every=3), **how)
    assert whole[-1]["meta"]["class"]["caches"] == "first-block=0.9 every 3"
    without = render(packs["bfloat16"], request(tmp_path / "without", model, image=image, every=3), profile=profile)
    assert not torch.equal(latents(whole), latents(without)), "it has left nothing out: this test would prove nothing"
    resume = None
    for step in sorted({c["next_step"] for c in of("checkpoint", whole)}):
        asked = request(tmp_path / f"killed-{step}", model, image=image, every=3, resume=resume)
        heard, status = render(packs["bfloat16"], asked, kill_at=at_checkpoint(step), **how)
        assert status == -signal.SIGKILL
        assert resume is None or of("accepted", heard)[0]["resume"] == "exact"
        resume = of("checkpoint", heard)[-1]
    last = render(packs["bfloat16"], request(tmp_path / "last", model, image=image, every=3, resume=resume), **how)
    assert last[-1]["sha256"] == whole[-1]["sha256"]


def test_two_renders_in_a_row_share_no_cache(packs, tmp_path):
    with Engine(packs["bfloat16"], tuning=CACHE) as engine:
        engine.load(MODEL)
        videos = {engine.render(request(tmp_path / str(n), MODEL, every=0))[-1]["sha256"] for n in range(2)}
    assert len(videos) == 1


def test_a_checkpoint_on_demand_is_of_the_last_step_at_which_the_cache_began_anew(packs, tmp_path):
    go = tmp_path / "go"
    calls = []
    forward = WanTransformer3DModel.forward

    def held(self, *arguments, **named):
        calls.append(1)
        # Two calls a step: the third step is done.
        while len(calls) == 7 and not go.exists():
            os.sched_yield()
        return forward(self, *arguments, **named)

    def hook():
        WanTransformer3DModel.forward = held

    with Engine(packs["bfloat16"], hook=hook, tuning=CACHE) as engine:
        engine.load(MODEL)
        engine.say("render", **request(tmp_path, MODEL, every=2))
        while engine.until("step")[-1]["done"] < 3:
            pass
        engine.say("checkpoint_now", id="task-1")
        checkpoint = engine.until("checkpoint")[-1]
        assert checkpoint["next_step"] == 2
        go.touch()
        whole = engine.until("finished", "error")[-1]
    asked = request(tmp_path / "again", MODEL, every=2, resume=checkpoint)
    again = render(packs["bfloat16"], asked, tuning=CACHE)
    assert of("accepted", again)[0]["resume"] == "exact"
    assert again[-1]["sha256"] == whole["sha256"]


@pytest.mark.parametrize(
    ("other", "every"), [(CACHE, 1), (Tuning(cache=0.8), 2), (Tuning(), 2), (Tuning(attention="_native_math"), 2)]
)
def test_another_switch_or_cadence_is_another_class(packs, tmp_path, other, every):
    whole = render(packs["bfloat16"], request(tmp_path / "whole", MODEL, every=2), tuning=CACHE)
    asked = request(tmp_path / "last", MODEL, every=every, resume=of("checkpoint", whole)[1])
    last = render(packs["bfloat16"], asked, tuning=other)
    assert (of("accepted", last)[0]["resume"], last[-1]["meta"]["resume"]) == ("approximate", "approximate")


def test_without_a_cache_the_distance_of_checkpoints_is_of_no_weight(packs, tmp_path):
    whole = render(packs["bfloat16"], request(tmp_path / "whole", MODEL, every=2))
    asked = request(tmp_path / "last", MODEL, every=1, resume=of("checkpoint", whole)[1])
    assert of("accepted", render(packs["bfloat16"], asked))[0]["resume"] == "exact"


def test_another_attention_resumes_as_exactly(packs, tmp_path):
    whole = render(packs["bfloat16"], request(tmp_path, MODEL), tuning=Tuning(attention="_native_math"))
    assert whole[-1]["meta"]["class"]["attention"] == "_native_math"
    asked = request(tmp_path / "again", MODEL, resume=of("checkpoint", whole)[3])
    again = render(packs["bfloat16"], asked, tuning=Tuning(attention="_native_math"))
    assert of("accepted", again)[0]["resume"] == "exact"
    assert again[-1]["sha256"] == whole[-1]["sha256"]


def test_what_the_command_line_may_say():
    assert tuning("native", False, "off") == Tuning()
    assert tuning("flash", True, "first-block") == Tuning("flash", True, 0.05)
    assert tuning("native", False, "first-block=0.1").cache == 0.1
    for attention in ("flash_hub", "_flash_3_hub", "sage_hub", "fastest", ""):
        with pytest.raises(SystemExit, match="--attention"):
            tuning(attention, False, "off")
    for cache in ("on", "first-block=often", "first-block=0", "first-block=2", "last-block=0.1"):
        with pytest.raises(SystemExit, match="--cache"):
            tuning("native", False, cache)


def no_encoder():
    def refuse(*_, **__):
        raise AssertionError("the image was encoded again")

    AutoencoderKLWan.encode = refuse


@pytest.mark.parametrize("model", ["ti2v-5B", "i2v-A14B"])
@pytest.mark.parametrize("compute", ["bfloat16", "float32"])
def test_a_resumed_render_does_not_encode_its_image_again(packs, tmp_path, model, compute):
    image = write(tmp_path / "image.png", encoded(gradient()))
    whole = render(packs[compute], request(tmp_path / "whole", model, image=image))
    for step in range(1, STEPS):
        resume = of("checkpoint", whole)[step - 1]
        asked = request(tmp_path / str(step), model, image=image, resume=resume)
        last = render(packs[compute], asked, hook=no_encoder)
        assert "encode_image" not in [phase["name"] for phase in of("phase", last)]
        assert last[-1]["sha256"] == whole[-1]["sha256"]


def in_memory(path):
    """Whether the file's last page is in the kernel's, without having it read."""
    with path.open("rb") as file:
        try:
            return os.preadv(file.fileno(), [bytearray(1)], path.stat().st_size - 1, os.RWF_NOWAIT) == 1
        except BlockingIOError:
            return False


def test_a_file_that_is_read_ahead_is_in_memory(tmp_path):
    path = tmp_path / "expert"
    with path.open("wb") as file:
        file.write(os.urandom(16 << 20))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if in_memory(path):
        pytest.skip("this file system keeps everything in memory")
    read_ahead(path).join()
    for _ in range(10_000):
        if in_memory(path):
            break
        os.sched_yield()
    assert in_memory(path)
    read_ahead(tmp_path / "gone").join()


@pytest.mark.parametrize(("profile", "times"), [("swap", 1), ("resident", 0)])
def test_the_second_expert_is_read_ahead_where_it_has_to_be_loaded(packs, tmp_path, profile, times):
    noted = tmp_path / "noted"
    noted.touch()

    def hook():
        def note(path):
            with noted.open("a") as file:
                file.write(f"{path}\n")

        shelf.read_ahead = note

    render(packs["bfloat16"], request(tmp_path, MODEL), profile=profile, hook=hook)
    second = packs["bfloat16"] / MODEL / "transformer_2" / "diffusion_pytorch_model.safetensors"
    assert noted.read_text().splitlines() == [str(second)] * times


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_compiled_blocks_resume_as_exactly(packs, tmp_path):
    def hook():
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path / "inductor")

    how = {"tuning": Tuning(compile=True), "hook": hook}
    whole = render(packs["bfloat16"], request(tmp_path / "whole", MODEL), **how)
    assert whole[-1]["type"] == "finished", whole[-1]
    assert whole[-1]["meta"]["class"]["compile"] == "on"
    asked = request(tmp_path / "again", MODEL, resume=of("checkpoint", whole)[2])
    again = render(packs["bfloat16"], asked, **how)
    assert of("accepted", again)[0]["resume"] == "exact"
    assert again[-1]["sha256"] == whole[-1]["sha256"]
