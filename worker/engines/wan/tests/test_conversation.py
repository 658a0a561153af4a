"""Who says what when: checkpoints during a step, memory that runs out, a device that is lost, a worker that is gone."""

import time

import pytest
import torch
from diffusers import WanTransformer3DModel

from engine import Engine, of, request
from spotreel_wan import decode
from spotreel_wan.contract import EXIT_DEVICE, EXIT_NO_COMMON_VERSION

MODEL = "t2v-A14B"


@pytest.fixture
def engine(packs):
    with Engine(packs["bfloat16"]) as engine:
        yield engine


def test_a_checkpoint_comes_while_a_step_runs(packs, tmp_path):
    go = tmp_path / "go"
    calls = []
    forward = WanTransformer3DModel.forward

    def held(self, *arguments, **named):
        # Two calls a step: this holds the third one.
        calls.append(1)
        while len(calls) == 5 and not go.exists():
            time.sleep(0.001)
        return forward(self, *arguments, **named)

    def hook():
        WanTransformer3DModel.forward = held

    with Engine(packs["bfloat16"], hook=hook) as engine:
        engine.load(MODEL)
        engine.say("render", **request(tmp_path, MODEL, every=0))
        while engine.until("step")[-1]["done"] < 2:
            pass
        engine.say("checkpoint_now", id="task-1")
        checkpoint = engine.hear()
        assert (checkpoint["type"], checkpoint["next_step"]) == ("checkpoint", 2)
        engine.say("checkpoint_now", id="another")
        engine.say("ping", n=5)
        assert engine.hear() == {"type": "pong", "n": 5}
        go.touch()
        whole = engine.until("finished", "error")
        assert of("checkpoint", whole) == [], "nobody asked for more"
        again = engine.render(request(tmp_path / "again", MODEL, resume=checkpoint))
    assert again[-1]["sha256"] == whole[-1]["sha256"]


def test_a_checkpoint_that_is_asked_for_too_early_comes_as_soon_as_there_is_one(engine, tmp_path):
    engine.load(MODEL)
    engine.say("render", **request(tmp_path, MODEL, every=0))
    engine.say("checkpoint_now", id="task-1")
    heard = engine.until("finished", "error")
    checkpoint = of("checkpoint", heard)[0]
    again = engine.render(request(tmp_path / "again", MODEL, resume=checkpoint))
    assert of("accepted", again)[0]["start_step"] == checkpoint["next_step"]
    assert again[-1]["sha256"] == heard[-1]["sha256"]


def test_step_0_is_worth_a_checkpoint_and_spares_the_text_encoder(packs, tmp_path):
    with Engine(packs["bfloat16"], faults=True) as engine:
        engine.load(MODEL)
        engine.say("render", **request(tmp_path, MODEL, every=0, prompt="a fox {{slow@0}}"))
        while engine.hear().get("name") != "denoise":
            pass
        engine.say("checkpoint_now", id="task-1")
        checkpoint = engine.until("checkpoint")[-1]
        whole = engine.until("finished", "error")
        assert checkpoint["next_step"] == 0
        again = engine.render(request(tmp_path / "again", MODEL, prompt="a fox {{slow@0}}", resume=checkpoint))
    assert [phase["name"] for phase in of("phase", again)] == ["denoise", "decode", "mux"]
    assert again[-1]["sha256"] == whole[-1]["sha256"]


def no_memory_in_chunks(times):
    """Decoding fails after its first chunk; in tiles it does not, unless `times` is 2."""
    in_time, in_tiles = decode._in_time, decode._in_tiles

    def failing(chunks):
        yield next(chunks)
        raise torch.OutOfMemoryError("CUDA out of memory")

    def hook():
        decode._in_time = lambda vae, z: failing(in_time(vae, z))
        if times == 2:
            decode._in_tiles = lambda vae, z: failing(in_tiles(vae, z))

    return hook


def test_decoding_that_runs_out_of_memory_is_done_again_in_tiles(packs, tmp_path):
    with Engine(packs["bfloat16"], hook=no_memory_in_chunks(1)) as engine:
        engine.load(MODEL)
        heard = engine.render(request(tmp_path, MODEL, width=512, height=320))
    assert heard[-1]["type"] == "finished"
    assert heard[-1]["meta"]["tiled"] is True
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["meta.json", "poster.jpg", "video.mp4"]


def test_memory_that_runs_out_for_good_is_told_and_nothing_of_the_denoising_is_lost(packs, tmp_path):
    with Engine(packs["bfloat16"], hook=no_memory_in_chunks(2)) as engine:
        engine.load(MODEL)
        heard = engine.render(request(tmp_path, MODEL))
        assert (heard[-1]["kind"], heard[-1]["code"]) == ("oom", "out_of_memory")
        saved = of("checkpoint", heard)[-1]
        assert saved["phase"] == "decode"
        engine.say("ping", n=1)
        assert engine.hear()["type"] == "pong"
    with Engine(packs["bfloat16"]) as other:
        other.load(MODEL)
        assert other.render(request(tmp_path / "other", MODEL, resume=saved))[-1]["type"] == "finished"


def failing_forward(error):
    def forward(*_, **__):
        raise error

    def hook():
        WanTransformer3DModel.forward = forward

    return hook


def test_a_lost_device_ends_the_process_with_its_own_status(packs, tmp_path):
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    with Engine(packs["bfloat16"], hook=failing_forward(error)) as engine:
        engine.load(MODEL)
        last = engine.render(request(tmp_path, MODEL))[-1]
        assert (last["kind"], last["restart"]) == ("device", True)
        assert engine.hear() is None
        assert engine.exit_status() == EXIT_DEVICE


def test_a_bug_is_internal_and_the_engine_lives(packs, tmp_path):
    with Engine(packs["bfloat16"], hook=failing_forward(ZeroDivisionError("a bug"))) as engine:
        engine.load(MODEL)
        last = engine.render(request(tmp_path, MODEL))[-1]
        assert (last["kind"], last["message"]) == ("internal", "ZeroDivisionError: a bug")
        assert engine.load(MODEL)["type"] == "ready"


def test_a_cancel_right_behind_the_request_finds_it(engine, tmp_path):
    engine.load(MODEL)
    engine.say("render", **request(tmp_path, MODEL))
    engine.say("cancel", id="task-1", reason="the client changed its mind")
    last = engine.until("finished", "error")[-1]
    assert (last["kind"], last["message"]) == ("cancelled", "the client changed its mind")
    assert engine.render(request(tmp_path, MODEL))[-1]["type"] == "finished"


def test_one_render_at_a_time(engine, tmp_path):
    engine.load(MODEL)
    engine.say("render", **request(tmp_path / "one", MODEL))
    engine.say("render", **(request(tmp_path / "two", MODEL) | {"id": "task-2"}))
    heard = engine.until("finished")
    assert [(e["id"], e["code"]) for e in of("error", heard)] == [(None, "busy")]


@pytest.mark.parametrize(
    "line", [b"{}\n", b"[]\n", b"nonsense\n", b'{"type":"render","id":5}\n', b'{"type":"teleport"}\n', b"\xff\n"]
)
def test_nonsense_is_answered_and_forgotten(engine, line):
    engine._socket.sendall(line)
    answer = engine.hear()
    assert (answer["type"], answer["kind"], answer["id"]) == ("error", "protocol", None)
    engine.say("ping", n=1)
    assert engine.hear() == {"type": "pong", "n": 1}


def test_without_a_common_version_or_a_worker_it_ends(packs):
    with Engine(packs["bfloat16"]) as engine:
        engine.say("hello", proto=[2, 3])
        assert engine.exit_status() == EXIT_NO_COMMON_VERSION
    with Engine(packs["bfloat16"]) as engine:
        engine.say("shutdown", grace_s=1.0)
        assert engine.hear() == {"type": "bye"}
        assert engine.exit_status() == 0
    with Engine(packs["bfloat16"]) as engine:
        engine._lines.close()
        engine._socket.close()
        assert engine.exit_status() == 0


def test_an_unloaded_model_does_not_render(engine, tmp_path):
    engine.load(MODEL)
    engine.say("unload")
    assert engine.render(request(tmp_path, MODEL))[-1]["code"] == "not_loaded"
    engine.load("ti2v-5B")
    assert engine.render(request(tmp_path, MODEL))[-1]["code"] == "not_loaded"
    assert engine.render(request(tmp_path, "ti2v-5B"))[-1]["type"] == "finished"
