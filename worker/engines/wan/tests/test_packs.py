"""A pack that is not what it should be is refused as `model`, and the engine lives."""

import json
import pickle
import runpy
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import Engine, request
from spotreel_wan.models import MODELS
from spotreel_wan.pack import read_index, seal

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


def load(packs, model="t2v-A14B", **fields):
    """What comes of it; and a good pack must still load after it."""
    with Engine(packs) as engine:
        answer = engine.load(model, **fields)
        if answer["type"] == "error":
            assert (answer["id"], answer["kind"], answer["restart"]) == (None, "model", False)
            with tempfile.TemporaryDirectory() as directory:
                refused = engine.render(request(Path(directory), model))[-1]
            assert (refused["kind"], refused["code"]) == ("protocol", "not_loaded")
        return answer


def reseal(pack, **other):
    """Makes the index true again."""
    index = json.loads((pack / "pack.json").read_text())
    kept = {key: index[key] for key in ("model", "compute", "source", "license", "profiles", "fast") if key in index}
    seal(pack, **(kept | other))


def damage_index(pack, change):
    path = pack / "pack.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def truncated(pack):
    data = (pack / TRANSFORMER).read_bytes()
    (pack / TRANSFORMER).write_bytes(data[:-100])


def truncated_and_sealed(pack):
    truncated(pack)
    reseal(pack)


def one_bit(pack):
    data = bytearray((pack / TRANSFORMER).read_bytes())
    data[-1] ^= 1
    (pack / TRANSFORMER).write_bytes(data)


def wrong_shapes(pack):
    tensors = load_file(pack / TRANSFORMER)
    tensors["proj_out.weight"] = tensors["proj_out.weight"][:, :-1].contiguous()
    save_file(tensors, pack / TRANSFORMER)
    reseal(pack)


def missing_tensor(pack):
    tensors = load_file(pack / TRANSFORMER)
    del tensors["proj_out.bias"]
    save_file(tensors, pack / TRANSFORMER)
    reseal(pack)


def pickled(pack):
    torch.save({"weight": torch.zeros(1)}, pack / "transformer" / "diffusion_pytorch_model.bin")
    reseal(pack)


def pickle_by_another_name(pack):
    (pack / TRANSFORMER).write_bytes(pickle.dumps({"weight": [0.0] * 100}))
    reseal(pack)


def no_tokenizer(pack):
    (pack / "tokenizer" / "tokenizer.json").unlink()


def no_tokenizer_and_sealed(pack):
    no_tokenizer(pack)
    reseal(pack)


def broken_tokenizer(pack):
    (pack / "tokenizer" / "tokenizer.json").write_text('{"model": {"type": "Nothing"}}')
    reseal(pack)


def no_low_noise_expert(pack):
    (pack / "transformer_2" / "config.json").unlink()
    reseal(pack)


def broken_config(pack):
    (pack / "vae" / "config.json").write_text("{")
    reseal(pack)


def no_scheduler(pack):
    (pack / "scheduler" / "scheduler_config.json").unlink()


def of_another_model(pack):
    reseal(pack, model="i2v-A14B")


def outside(pack):
    damage_index(pack, lambda index: index["files"][0].update(path="../../../etc/passwd"))


def unknown_format(pack):
    damage_index(pack, lambda index: index.update(format="wanpack/2"))


def odd_compute(pack):
    damage_index(pack, lambda index: index.update(compute="int3"))


def no_index(pack):
    (pack / "pack.json").unlink()


def garbage_index(pack):
    (pack / "pack.json").write_bytes(b"\xff\xfe{}")


def no_known_profile(pack):
    damage_index(pack, lambda index: index.update(profiles=["gigantic"]))


def profiles_of_before(pack):
    damage_index(pack, lambda index: index.update(profiles=[{"name": "resident", "from_bytes": 0}]))


def no_lora(pack):
    (pack / "lora" / "low.safetensors").unlink()
    reseal(pack)


def a_lora_for_one_expert(pack):
    damage_index(pack, lambda index: index["fast"]["loras"].pop("transformer_2"))


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (truncated, "truncated"),
        (truncated_and_sealed, "not_safetensors"),
        (one_bit, "sha256_mismatch"),
        (wrong_shapes, "wrong_shapes"),
        (missing_tensor, "wrong_shapes"),
        (pickled, "not_safetensors"),
        (pickle_by_another_name, "not_safetensors"),
        (no_tokenizer, "missing_file"),
        (no_tokenizer_and_sealed, "missing_file"),
        (broken_tokenizer, "bad_tokenizer"),
        (no_low_noise_expert, "missing_file"),
        (broken_config, "bad_config"),
        (no_scheduler, "missing_file"),
        (of_another_model, "wrong_model"),
        (outside, "bad_index"),
        (unknown_format, "bad_index"),
        (odd_compute, "bad_index"),
        (no_index, "no_pack"),
        (garbage_index, "bad_index"),
        (no_known_profile, "no_profile"),
        (profiles_of_before, "bad_index"),
        (no_lora, "missing_file"),
        (a_lora_for_one_expert, "bad_index"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_bad_pack_is_refused(one_pack, damage, code):
    damage(one_pack / "t2v-A14B")
    assert load(one_pack)["code"] == code


def test_a_pack_in_another_models_place_is_refused_by_its_architecture(one_pack):
    """As if somebody had renamed the directory and written a new index."""
    (one_pack / "t2v-A14B").rename(one_pack / "i2v-A14B")
    reseal(one_pack / "i2v-A14B", model="i2v-A14B")
    assert load(one_pack, "i2v-A14B")["code"] == "wrong_model"


def test_models_are_named_whole_and_profiles_known(packs):
    for name in ("i2v", "ti2v-5b", "no-such-model", "../tiny/t2v-A14B"):
        assert load(packs["bfloat16"], name)["code"] == "unknown_model"
    assert load(packs["bfloat16"], profile="gigantic")["code"] == "unknown_profile"


def test_where_packs_lie_may_come_with_the_order_to_load(packs, tmp_path):
    assert load(tmp_path)["code"] == "no_pack"
    assert load(tmp_path, pack_dir=str(packs["bfloat16"]))["type"] == "ready"


def test_the_tiny_packs_are_what_their_script_makes(packs, tmp_path):
    script = runpy.run_path(str(Path(__file__).parent.parent / "tools" / "make_tiny_packs.py"))
    for name, model in MODELS.items():
        script["make_pack"](model, tmp_path / name)
        made, kept = read_index(tmp_path / name), read_index(packs["bfloat16"] / name)
        assert made.files == kept.files
        assert made.sha256 == kept.sha256
        assert sum(file.bytes for file in made.files) < 450_000
