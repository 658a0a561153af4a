"""Distilled weights that are whole transformers: loaded in place of the model's own, for tasks of `fast` only."""

import gc
import hashlib
import json
import shutil
import signal
import weakref

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from conftest import TINY
from engine import Engine, of, request
from modes import every_format
from spotreel_wan import shelf
from spotreel_wan.device import open_device
from spotreel_wan.models import MODELS
from spotreel_wan.pack import open_pack
from spotreel_wan.profile import PROFILES, needed_bytes
from spotreel_wan.shelf import Shelf
from spotreel_wan.tuning import Tuning
from spotreel_wan.weights import blueprint
from test_fast import Euler
from test_loras import named
from test_packs import damage_index, load, reseal
from test_reference import plain
from test_resume import at_checkpoint, render

WEIGHTS = "diffusion_pytorch_model.safetensors"
RECIPE = {"steps": 3, "shift": 8.0, "guidance": 1.0, "scheduler": "euler"}
every_model = pytest.mark.parametrize("model", ["ti2v-5B", "t2v-A14B"])
every_profile = pytest.mark.parametrize("profile", ["resident", "swap", "swap-float8"])


def experts(model):
    return ("transformer",) if model == "ti2v-5B" else ("transformer", "transformer_2")


def distil(pack, model, seed=1):
    """Other weights beside the model's own."""
    generator = torch.Generator().manual_seed(seed)
    for expert in experts(model):
        directory = pack / "fast" / expert
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copy(pack / expert / "config.json", directory)
        tensors = load_file(pack / expert / WEIGHTS)
        tensors |= {
            name: (tensor + torch.randn(tensor.shape, generator=generator) * 0.05).to(tensor.dtype)
            for name, tensor in tensors.items()
        }
        save_file(tensors, directory / WEIGHTS, {"format": "pt"})
    weights = {expert: f"fast/{expert}/{WEIGHTS}" for expert in experts(model)}
    reseal(pack, fast={"weights": weights, "recipe": RECIPE, "source": {"repository": "a/b"}, "license": "MIT"})


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Packs with whole distilled weights, by the number format that they count in."""
    found = {}
    for compute in ("bfloat16", "float32"):
        packs = tmp_path_factory.mktemp(compute)
        for model in ("ti2v-5B", "t2v-A14B"):
            shutil.copytree(TINY / model, packs / model, ignore=shutil.ignore_patterns("lora"))
            distil(packs / model, model)
            reseal(packs / model, compute=compute)
        found[compute] = packs
    return found


@pytest.fixture
def broken(tuned, tmp_path):
    """A copy of one, to be broken."""
    shutil.copytree(tuned["bfloat16"] / "t2v-A14B", tmp_path / "packs" / "t2v-A14B")
    return tmp_path / "packs"


def fast(directory, model, **more):
    guidance_2 = None if model == "ti2v-5B" else 1.0
    usual = {"steps": 3, "guidance": 1.0, "guidance_2": guidance_2, "shift": 8.0}
    return request(directory, model, quality="fast", **(usual | more))


def latents(heard):
    return load_file(of("checkpoint", heard)[-1]["path"])["latents"]


@every_model
@every_format
def test_latents_are_those_of_a_plain_pipeline_with_these_weights(tuned, tmp_path, model, compute):
    pack = tuned[compute] / model
    asked = fast(tmp_path, model)
    heard = render(tuned[compute], asked)

    def distilled(pipeline):
        for expert in experts(model):
            other = WanTransformer3DModel.from_pretrained(pack / "fast" / expert, dtype=getattr(torch, compute))
            setattr(pipeline, expert, other)

    class Sampled(Euler):
        """In the place where a plain pipeline has its UniPC."""

        @classmethod
        def from_config(cls, _config, flow_shift):
            made = cls(shift=flow_shift)
            set_timesteps = made.set_timesteps
            made.set_timesteps = lambda steps, device: set_timesteps(
                sigmas=[1 - step / steps for step in range(steps)], device=device
            )
            return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("test_reference.UniPCMultistepScheduler", Sampled)
        wanted, _ = plain(pack, compute, asked["task"], None, distilled)
    assert torch.equal(latents(heard), wanted)
    meta = heard[-1]["meta"]
    assert (meta["solver"], meta["parameters"]["steps"]) == ("euler", 3)
    files = {expert: pack / "fast" / expert / WEIGHTS for expert in experts(model)}
    hashes = {expert: hashlib.sha256(file.read_bytes()).hexdigest() for expert, file in files.items()}
    wanted = {"weights": hashes, "recipe": RECIPE, "source": {"repository": "a/b"}, "license": "MIT"}
    assert meta["pack"]["fast"] == wanted
    assert meta["class"]["weights"] == hashes


@every_profile
def test_they_serve_no_other_task_and_the_models_own_serve_none_of_theirs(tuned, tmp_path, profile):
    packs, model = tuned["bfloat16"], "t2v-A14B"
    asked = {
        "standard": lambda name: request(tmp_path / name, model, quality="standard"),
        "fast": lambda name: fast(tmp_path / name, model),
    }
    # Each by an engine that has never done anything else; and by the pack without them.
    alone = {kind: render(packs, ask(kind), profile=profile)[-1]["sha256"] for kind, ask in asked.items()}
    assert alone["standard"] == render(TINY, asked["standard"]("tiny"), profile=profile)[-1]["sha256"]
    assert alone["standard"] != alone["fast"]
    with Engine(packs, profile=profile) as engine:
        engine.load(model)
        for number, kind in enumerate(("standard", "fast", "fast", "standard", "fast")):
            assert engine.render(asked[kind](f"{number}"))[-1]["sha256"] == alone[kind], (number, kind)


@every_model
@pytest.mark.parametrize("profile", ["resident", "swap-float8"])
def test_killed_at_every_step_it_goes_on_exactly(tuned, tmp_path, model, profile):
    packs = tuned["bfloat16"]
    whole = render(packs, fast(tmp_path / "whole", model), profile=profile)
    resume = None
    for step in range(1, 4):
        asked = fast(tmp_path / f"killed-{step}", model, resume=resume)
        heard, status = render(packs, asked, profile=profile, kill_at=at_checkpoint(step))
        assert status == -signal.SIGKILL
        assert of("accepted", heard)[0]["resume"] == ("none" if step == 1 else "exact")
        resume = of("checkpoint", heard)[-1]
    last = render(packs, fast(tmp_path / "last", model, resume=resume), profile=profile)
    assert last[-1]["sha256"] == whole[-1]["sha256"]


def test_a_checkpoint_of_other_weights_is_of_no_use(tuned, tmp_path):
    packs, model = tuned["bfloat16"], "ti2v-5B"
    resume = of("checkpoint", render(packs, fast(tmp_path / "whole", model)))[0]
    other = tmp_path / "other"
    shutil.copytree(packs / model, other / model)
    distil(other / model, model, seed=2)
    same = {"steps": 3, "guidance": 1.0, "shift": 8.0}
    for where, asked in (
        (other, fast(tmp_path / "a", model, resume=resume)),
        (packs, request(tmp_path / "b", model, resume=resume, **same)),
    ):
        with Engine(where) as engine:
            engine.load(model)
            refused = engine.render(asked)[-1]
        assert (refused["kind"], refused["code"]) == ("checkpoint", "other_task")


@every_profile
def test_one_version_of_an_expert_is_in_memory_at_a_time(tuned, profile):
    pack = open_pack(tuned["bfloat16"], MODELS["t2v-A14B"])
    plan = blueprint(pack, MODELS["t2v-A14B"])
    held = Shelf(pack, plan, PROFILES[profile], open_device("cpu"), Tuning())
    parts = [(name, weakref.ref(part)) for name, (_, _, part) in held._parts.items()]
    loaded = []

    def in_memory():
        return sorted({id(part()): name for name, part in parts if part() is not None}.values())

    def load_noting(name, path, deltas=None, whole=held._load):
        gc.collect()
        loaded.append((path, in_memory()))
        return whole(name, path, deltas)

    held._load = load_noting
    for wants_fast in (False, True, True, False):
        for name in experts("t2v-A14B"):
            parts.append((name, weakref.ref(held.get(name, (), wants_fast))))
    own, other = ([f"{where}{name}/{WEIGHTS}" for name in experts("t2v-A14B")] for where in ("", "fast/"))
    if profile == "resident":
        # The model's own are there already. Each expert goes before its other version comes; the rest stays.
        rest = {"transformer": ["text_encoder", "transformer_2"], "transformer_2": ["text_encoder", "transformer"]}
        assert loaded == [(path, rest[path.split("/")[-2]]) for path in [*other, *own]]
    else:
        assert loaded == [(path, []) for path in [*own, *other, *other, *own]]
    # So what a render needs is what it was.
    bare = open_pack(TINY, MODELS["t2v-A14B"])
    wanted = needed_bytes(PROFILES[profile], blueprint(bare, MODELS["t2v-A14B"]), 1000)
    assert needed_bytes(PROFILES[profile], plan, 1000) == wanted


def test_the_file_that_is_read_ahead_is_that_of_the_other_distilled_expert(tuned, monkeypatch):
    pack = open_pack(tuned["bfloat16"], MODELS["t2v-A14B"])
    read = []
    monkeypatch.setattr(shelf, "read_ahead", read.append)
    held = Shelf(pack, blueprint(pack, MODELS["t2v-A14B"]), PROFILES["swap"], open_device("cpu"), Tuning())
    held.get("transformer", (), True)
    assert read == [pack.dir / "fast" / "transformer_2" / WEIGHTS]


def test_they_wait_for_no_file_that_only_standard_tasks_need(tuned, tmp_path):
    """The low-noise expert of the model's own may still be on its way."""
    packs = tmp_path / "packs"
    shutil.copytree(tuned["bfloat16"] / "t2v-A14B", packs / "t2v-A14B")
    late = f"transformer_2/{WEIGHTS}"
    (packs / "t2v-A14B" / late).unlink()
    whole = render(tuned["bfloat16"], fast(tmp_path / "whole", "t2v-A14B"))
    with Engine(packs) as engine:
        assert engine.load("t2v-A14B", verified=True, arriving=[late])["type"] == "ready"
        assert engine.render(fast(tmp_path / "fast", "t2v-A14B"))[-1]["sha256"] == whole[-1]["sha256"]


def test_a_tasks_lora_is_merged_into_them(tuned, tmp_path):
    model = "t2v-A14B"
    file = tmp_path / "fox.safetensors"
    shutil.copy(TINY / model / "lora" / "high.safetensors", file)
    loras = [named({"fox": file}, "fox", 0.5, "high")]
    alone = render(tuned["float32"], fast(tmp_path / "alone", model))
    both = render(tuned["float32"], fast(tmp_path / "both", model, loras=loras))
    own = render(tuned["float32"], request(tmp_path / "own", model, loras=loras))
    assert len({heard[-1]["sha256"] for heard in (alone, both, own)}) == 3


def wrong_shapes(pack):
    tensors = load_file(pack / "fast" / "transformer_2" / WEIGHTS)
    tensors["proj_out.weight"] = tensors["proj_out.weight"][:, :-1].contiguous()
    save_file(tensors, pack / "fast" / "transformer_2" / WEIGHTS)
    reseal(pack)


def other_config(pack):
    path = pack / "fast" / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_layers": 1}))
    reseal(pack)


def no_config(pack):
    (pack / "fast" / "transformer" / "config.json").unlink()
    reseal(pack)


def one_of_two(pack):
    damage_index(pack, lambda index: index["fast"]["weights"].pop("transformer_2"))


def loras_as_well(pack):
    damage_index(pack, lambda index: index["fast"].update(loras=index["fast"]["weights"]))


def neither(pack):
    damage_index(pack, lambda index: index["fast"].pop("weights"))


def one_bit(pack):
    path = pack / "fast" / "transformer" / WEIGHTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (wrong_shapes, "wrong_shapes"),
        (other_config, "wrong_model"),
        (no_config, "missing_file"),
        (one_of_two, "bad_index"),
        (loras_as_well, "bad_index"),
        (neither, "bad_index"),
        (one_bit, "sha256_mismatch"),
    ],
)
def test_what_does_not_fit_is_refused_at_load(broken, damage, code):
    damage(broken / "t2v-A14B")
    assert load(broken)["code"] == code


def test_nan_ends_the_fast_task_and_no_other(broken, tmp_path):
    path = broken / "t2v-A14B" / "fast" / "transformer_2" / WEIGHTS
    tensors = load_file(path)
    tensors["proj_out.bias"][0] = float("nan")
    save_file(tensors, path, {"format": "pt"})
    reseal(broken / "t2v-A14B")
    with Engine(broken) as engine:
        engine.load("t2v-A14B")
        refused = engine.render(fast(tmp_path / "fast", "t2v-A14B"))[-1]
        assert (refused["kind"], refused["code"]) == ("model", "not_finite")
        assert f"proj_out.bias in fast/transformer_2/{WEIGHTS}" in refused["message"]
        assert engine.render(request(tmp_path / "next", "t2v-A14B"))[-1]["type"] == "finished"
