"""Any number of steps at any shift, resumed from any step. `sweep_steps.py` takes all of them."""

import pytest

import sweep_steps
from engine import Engine, of, request
from modes import MODES
from pictures import encoded, gradient, write
from spotreel_wan.recipe import MAX_STEPS, SHIFT
from test_resume import render

STEPS = (1, 2, 3, 6, MAX_STEPS)


@pytest.fixture(scope="module")
def ways():
    return {way.name: way for way in sweep_steps.ways()}


@pytest.mark.parametrize("name", [*MODES, "t2v-A14B fast", "i2v-A14B fast"])
def test_each_step_is_done_once_and_is_the_same_after_a_resume(ways, name):
    seen = sweep_steps.sweep(ways[name], (*SHIFT, 5.0, 12.0), STEPS)
    assert seen["resumes"] == 4 * sum(steps - 1 for steps in STEPS)
    assert name.endswith("fast") or seen["with repeated timesteps"] > 0, "the case that went wrong is among them"


@pytest.mark.parametrize("model", ["ti2v-5B", "i2v-A14B"])
def test_an_image_and_timesteps_that_repeat(packs, tmp_path, model):
    image = write(tmp_path / "image.png", encoded(gradient()))
    asked = {"image": image, "steps": MAX_STEPS, "shift": SHIFT[1], "width": 64, "height": 64, "frames": 5}
    whole = render(packs["bfloat16"], request(tmp_path / "whole", model, every=1, **asked))
    assert [step["done"] for step in of("step", whole)] == list(range(1, MAX_STEPS + 1))
    with Engine(packs["bfloat16"]) as engine:
        engine.load(model)
        for step in (1, 2, 30, MAX_STEPS - 1):
            resume = of("checkpoint", whole)[step - 1]
            again = engine.render(request(tmp_path / str(step), model, every=0, resume=resume, **asked))
            assert (of("accepted", again)[0]["resume"], again[-1]["type"]) == ("exact", "finished")
            assert again[-1]["sha256"] == whole[-1]["sha256"]
