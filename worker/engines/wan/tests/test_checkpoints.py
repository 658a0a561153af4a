"""A checkpoint is taken up by the very render that it is of, or refused."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from engine import STEPS, Engine, of, request


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def rendered(packs, tmp_path_factory):
    """An engine with its model loaded, and the checkpoints of a render."""
    directory = tmp_path_factory.mktemp("rendered")
    with Engine(packs["bfloat16"]) as engine:
        engine.load("t2v-A14B")
        heard = engine.render(request(directory, "t2v-A14B"))
        yield engine, of("checkpoint", heard)


def resumed(engine, directory, checkpoint, **task):
    return engine.render(request(directory, "t2v-A14B", resume=checkpoint, **task))[-1]


def forge(checkpoint, path, change):
    """Rewrites a checkpoint; `change` gets tensors and state."""
    tensors = safetensors.torch.load_file(checkpoint["path"])
    with safe_open(checkpoint["path"], framework="pt") as file:
        state = json.loads(file.metadata()["wanckpt/1"])
    change(tensors, state)
    safetensors.torch.save_file(tensors, path, {"wanckpt/1": json.dumps(state)})
    return {"path": str(path), "sha256": sha256(path)}


def test_they_hash_to_what_was_announced_and_hold_what_they_should(rendered):
    _, checkpoints = rendered
    assert [c["next_step"] for c in checkpoints] == list(range(1, STEPS + 1))
    for checkpoint in checkpoints:
        assert sha256(checkpoint["path"]) == checkpoint["sha256"]
        assert Path(checkpoint["path"]).stat().st_size == checkpoint["bytes"]
    names = set(safetensors.torch.load_file(checkpoints[3]["path"]))
    history = {"model_outputs.0", "model_outputs.1", "last_sample"}
    assert names == {"latents", "embeds.prompt", "embeds.negative"} | history
    assert set(safetensors.torch.load_file(checkpoints[-1]["path"])) == {"latents"}


@pytest.mark.parametrize(
    "task",
    [
        {"prompt": "a blue fox"},
        {"negative_prompt": ""},
        {"seed": 8},
        {"steps": 7},
        {"width": 96},
        {"frames": 5},
        {"guidance": 4.5},
        {"guidance_2": 3.5},
        {"shift": 11.0},
        {"fps": 24},
    ],
    ids=lambda task: next(iter(task)),
)
def test_another_render_is_refused(rendered, tmp_path, task):
    engine, checkpoints = rendered
    answer = resumed(engine, tmp_path, checkpoints[2], **task)
    assert (answer["kind"], answer["code"], answer["restart"]) == ("checkpoint", "other_task", False)


def test_another_pack_is_refused(rendered, packs, tmp_path):
    _, checkpoints = rendered
    with Engine(packs["float32"]) as engine:
        engine.load("t2v-A14B")
        assert resumed(engine, tmp_path, checkpoints[2])["code"] == "other_task"


def drop(name):
    return lambda tensors, state: tensors.pop(name)


def replace(name, tensor):
    return lambda tensors, state: tensors.update({name: tensor})


def poison(name):
    return lambda tensors, state: tensors[name].view(-1)[-1:].fill_(float("nan"))


def say(**fields):
    return lambda tensors, state: state.update(fields)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (drop("latents"), "corrupt"),
        (drop("last_sample"), "corrupt"),
        (drop("model_outputs.0"), "corrupt"),
        (drop("embeds.prompt"), "corrupt"),
        (replace("latents", torch.zeros(1, 16, 3, 12, 15)), "corrupt"),
        (replace("last_sample", torch.zeros(1, 16, 3, 12, 16, dtype=torch.bfloat16)), "corrupt"),
        (replace("embeds.prompt", torch.zeros(1, 511, 32)), "corrupt"),
        *((poison(name), "not_finite") for name in ("latents", "model_outputs.0", "last_sample", "embeds.negative")),
        (say(next_step=STEPS + 1), "corrupt"),
        (say(next_step=-1), "corrupt"),
        (say(next_step="3"), "corrupt"),
        (say(phase="decode"), "corrupt"),
        (say(phase="mux"), "corrupt"),
        (say(timesteps=[1.0]), "other_task"),
        (say(model="i2v-A14B"), "other_task"),
    ],
)
def test_one_that_does_not_add_up_is_refused(rendered, tmp_path, change, code):
    engine, checkpoints = rendered
    answer = resumed(engine, tmp_path, forge(checkpoints[2], tmp_path / "forged.ckpt", change))
    assert (answer["kind"], answer["code"]) == ("checkpoint", code)


def test_damage_of_any_kind_is_refused_and_the_engine_lives(rendered, tmp_path):
    engine, checkpoints = rendered
    good = checkpoints[2]
    whole = Path(good["path"]).read_bytes()
    files = {"gone": None, "empty": b"", "half": whole[: len(whole) // 2], "foreign": b"\x80\x04pickle" * 99}
    for at in range(0, 400, 7):
        files[f"bit {at}"] = whole[:at] + bytes([whole[at] ^ 0x80]) + whole[at + 1 :]
    for name, data in files.items():
        path = tmp_path / "damaged.ckpt"
        path.unlink(missing_ok=True)
        if data is not None:
            path.write_bytes(data)
        digest = "0" * 64 if data is None else sha256(path)
        answer = resumed(engine, tmp_path, {"path": str(path), "sha256": digest})
        # A bit may turn a word of no weight, such as a name that nobody reads.
        assert answer.get("kind") == "checkpoint" or answer["type"] == "finished", (name, answer)
        assert name.startswith("bit") or answer["kind"] == "checkpoint"
    shutil.copy(good["path"], tmp_path / "other.ckpt")
    answer = resumed(engine, tmp_path, {"path": str(tmp_path / "other.ckpt"), "sha256": "0" * 64})
    assert (answer["kind"], answer["code"]) == ("checkpoint", "sha256_mismatch")
    assert resumed(engine, tmp_path, good)["type"] == "finished"
