"""A model whose last file is still on its way is loaded, and waits for it when it is needed."""

import os
import shutil

import pytest
from safetensors.torch import load_file, save_file

from conftest import TINY
from engine import STEPS, Engine, of, request
from test_resume import render

MODEL = "t2v-A14B"
LATE = "transformer_2/diffusion_pytorch_model.safetensors"
every_profile = pytest.mark.parametrize("profile", ["resident", "swap"])


@pytest.fixture
def late(one_pack):
    """The pack without its last file, and the file."""
    file = one_pack.parent / "late.safetensors"
    (one_pack / MODEL / LATE).rename(file)
    return one_pack, file


def arrive(packs, file):
    os.replace(file, packs / MODEL / LATE)


def begin(engine, directory, **more):
    """As far as the engine gets without the file."""
    ready = engine.load(MODEL, verified=True, arriving=[LATE])
    assert ready["type"] == "ready", ready
    engine.say("render", **request(directory, MODEL, **more))
    heard = []
    while not heard or heard[-1].get("name") != "load":
        heard.append(engine.hear())
    return heard


@every_profile
def test_it_waits_at_the_boundary_and_goes_on_when_the_file_is_there(late, tmp_path, profile):
    packs, file = late
    with Engine(packs, profile=profile) as engine:
        heard = begin(engine, tmp_path)
        assert [step["expert"] for step in of("step", heard)] == ["high"] * 4
        engine.say("ping", n=1)
        assert engine.hear() == {"type": "pong", "n": 1}
        arrive(packs, file)
        rest = engine.until("finished", "error")
        assert rest[0] == {"type": "phase", "id": "task-1", "name": "denoise"}
        assert len(of("step", heard + rest)) == STEPS
        again = engine.render(request(tmp_path / "again", MODEL))
        assert "load" not in [phase["name"] for phase in of("phase", again)], "it is there now"
    whole = render(TINY, request(tmp_path / "whole", MODEL), profile=profile)
    assert rest[-1]["sha256"] == again[-1]["sha256"] == whole[-1]["sha256"]


@every_profile
def test_a_cancel_is_answered_while_it_waits(late, tmp_path, profile):
    packs, file = late
    with Engine(packs, profile=profile) as engine:
        begin(engine, tmp_path)
        engine.say("checkpoint_now", id="task-1")
        assert engine.until("checkpoint")[-1]["next_step"] == 4
        engine.say("cancel", id="task-1", reason="the file does not come")
        last = engine.until("finished", "error")[-1]
        assert (last["kind"], last["message"]) == ("cancelled", "the file does not come")
        arrive(packs, file)
        assert engine.render(request(tmp_path, MODEL))[-1]["type"] == "finished"


def test_a_resumed_render_may_need_it_at_once(late, tmp_path):
    whole = render(TINY, request(tmp_path / "whole", MODEL), profile="swap")
    packs, file = late
    with Engine(packs, profile="swap") as engine:
        heard = begin(engine, tmp_path / "resumed", resume=of("checkpoint", whole)[4])
        assert of("step", heard) == []
        arrive(packs, file)
        assert engine.until("finished", "error")[-1]["sha256"] == whole[-1]["sha256"]


def test_one_that_came_in_time_is_not_waited_for(late, tmp_path):
    packs, file = late
    with Engine(packs, profile="swap") as engine:
        engine.load(MODEL, verified=True, arriving=[LATE])
        arrive(packs, file)
        heard = engine.render(request(tmp_path, MODEL))
        assert heard[-1]["type"] == "finished"
        assert "load" not in [phase["name"] for phase in of("phase", heard)]


def cut(file):
    os.truncate(file, file.stat().st_size - 1)


def of_other_shapes(file):
    """In the same number of bytes."""
    tensors = load_file(file)
    tensors["proj_out.weight"] = tensors["proj_out.weight"].T.contiguous()
    save_file(tensors, file, {"format": "pt"})


@every_profile
@pytest.mark.parametrize(("damage", "code"), [(cut, "truncated"), (of_other_shapes, "wrong_shapes")])
def test_what_arrives_is_looked_at(late, tmp_path, profile, damage, code):
    packs, file = late
    with Engine(packs, profile=profile) as engine:
        begin(engine, tmp_path)
        damage(file)
        arrive(packs, file)
        last = engine.until("finished", "error")[-1]
        assert (last["kind"], last["code"]) == ("model", code)


def test_only_an_experts_weights_can_be_late(late):
    packs, _ = late
    with Engine(packs) as engine:
        assert engine.load(MODEL)["code"] == "missing_file"
        assert engine.load(MODEL, arriving=[LATE])["type"] == "ready"
        shutil.move(packs / MODEL / "tokenizer" / "tokenizer.json", packs / "gone")
        assert engine.load(MODEL, arriving=[LATE, "tokenizer/tokenizer.json"])["code"] == "missing_file"


def test_verified_files_are_only_measured(one_pack):
    path = one_pack / MODEL / "transformer" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with Engine(one_pack) as engine:
        assert engine.load(MODEL)["code"] == "sha256_mismatch"
        assert engine.load(MODEL, verified=True)["type"] == "ready"
        path.write_bytes(data[:-1])
        assert engine.load(MODEL, verified=True)["code"] == "truncated"
