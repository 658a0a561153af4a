"""LoRAs that a task names: merged before, gone after, and part of what a checkpoint is."""

import hashlib

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from conftest import TINY
from engine import Engine, of, request
from spotreel_wan import lora
from spotreel_wan.contract import Refusal
from test_fast import fast, merged
from test_reference import plain
from test_resume import render

MODEL = "t2v-A14B"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two LoRAs of the tiny model, and one of another."""
    directory = tmp_path_factory.mktemp("loras")
    found = {}
    for name, noise in (("fox", "high"), ("snow", "low")):
        tensors = load_file(TINY / MODEL / "lora" / f"{noise}.safetensors")
        save_file(tensors, directory / f"{name}.safetensors")
        found[name] = directory / f"{name}.safetensors"
    save_file({f"blocks.0.ffn.0.lora_{half}.weight": torch.ones(2, 2) for half in ("A", "B")}, directory / "odd")
    found["odd"] = directory / "odd"
    return found


def named(files, name, strength=1.0, expert=None):
    path = files[name]
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"name": name, "path": str(path), "sha256": sha256, "strength": strength, "expert": expert}


def latents(heard):
    return load_file(of("checkpoint", heard)[-1]["path"])["latents"]


def test_latents_are_those_of_a_plain_pipeline_with_merged_weights(packs, tmp_path, files):
    asked = request(tmp_path, MODEL, loras=[named(files, "fox", expert="high")])
    heard = render(packs["float32"], asked)
    change = lambda pipeline: merged(pipeline.transformer, files["fox"])  # noqa: E731
    wanted, _ = plain(packs["float32"] / MODEL, "float32", asked["task"], None, change)
    assert torch.equal(latents(heard), wanted)
    said = heard[-1]["meta"]["parameters"]["loras"]
    assert said == [
        {
            "name": "fox",
            "sha256": hashlib.sha256(files["fox"].read_bytes()).hexdigest(),
            "strength": 1.0,
            "expert": "high",
        }
    ]


@pytest.mark.parametrize("profile", ["resident", "swap-float8"])
def test_what_was_merged_for_one_task_is_gone_for_the_next(packs, tmp_path, files, profile):
    def sets():
        yield "none", []
        yield "fox", [named(files, "fox", 0.5)]
        yield "both", [named(files, "fox", 0.5), named(files, "snow", -1.0, "low")]

    alone = {
        name: render(packs["bfloat16"], request(tmp_path / name, MODEL, loras=loras), profile=profile)[-1]["sha256"]
        for name, loras in sets()
    }
    assert len(set(alone.values())) == len(alone)
    loras = dict(sets())
    with Engine(packs["bfloat16"], profile=profile) as engine:
        engine.load(MODEL)
        for number, name in enumerate(("none", "fox", "fox", "none", "both", "fox")):
            asked = request(tmp_path / f"{number}", MODEL, loras=loras[name])
            assert engine.render(asked)[-1]["sha256"] == alone[name], (number, name)


def test_the_same_set_loads_no_expert_anew(packs, tmp_path, files):
    noted = tmp_path / "noted"
    noted.touch()

    def hook():
        from spotreel_wan import lora

        read = lora.read

        def counted(part, adapters):
            with noted.open("a") as file:
                file.write(".")
            return read(part, adapters)

        lora.read = counted

    with Engine(packs["bfloat16"], profile="resident", hook=hook) as engine:
        engine.load(MODEL)
        before = len(noted.read_text())
        for number in range(3):
            engine.render(request(tmp_path / f"{number}", MODEL, loras=[named(files, "fox")]))
    assert len(noted.read_text()) - before == 2, "once for each expert"


def test_distilled_weights_and_a_lora_go_together(packs, tmp_path, files):
    alone = render(packs["bfloat16"], fast(tmp_path / "alone", MODEL))
    both = render(packs["bfloat16"], fast(tmp_path / "both", MODEL, loras=[named(files, "snow", 0.7)]))
    assert both[-1]["sha256"] != alone[-1]["sha256"]


@pytest.mark.parametrize("alpha", [0.0, -4.0])
@pytest.mark.parametrize("prefix", ["diffusion_model.", "lora_unet_"])
def test_an_alpha_that_is_not_above_zero_is_refused_by_its_name(tmp_path, alpha, prefix):
    name = f"{prefix}blocks.0.self_attn.q" if prefix.endswith(".") else f"{prefix}blocks_0_self_attn_q"
    tensors = {f"{name}.lora_{half}.weight": torch.ones(2, 2) for half in ("down", "up")}
    save_file(tensors | {f"{name}.alpha": torch.tensor(alpha)}, tmp_path / "file")
    adapter = lora.Adapter("0" * 64, 1.0, tmp_path / "file", "fox")
    with pytest.raises(Refusal, match=f"{name}.alpha is not above 0"):
        lora.read(torch.nn.Module(), (adapter,))


@torch.no_grad()
@pytest.mark.parametrize("compute", [torch.float32, torch.float16, torch.bfloat16])
def test_a_file_is_held_in_its_own_format_and_merged_in_float32(tmp_path, compute):
    tensors = load_file(TINY / MODEL / "lora" / "high.safetensors")
    # Alphas by which no half of a file's numbers could be multiplied without rounding.
    alphas = {name: torch.tensor(0.37) for name in tensors if name.endswith(".alpha")}
    save_file({name: tensor.to(compute) for name, tensor in tensors.items()} | alphas, tmp_path / "file")
    ours, theirs = (WanTransformer3DModel.from_pretrained(TINY / MODEL / "transformer") for _ in range(2))
    deltas = lora.read(ours, (lora.Adapter("", 1.0, tmp_path / "file"),))
    held = {factor.tensor.dtype for changes in deltas.values() for delta in changes for factor in delta.factors}
    assert held == {compute}
    lora.merge(ours, deltas)
    merged(theirs, tmp_path / "file")
    wanted = theirs.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in ours.state_dict().items())


def test_a_checkpoint_of_other_loras_is_of_no_use(packs, tmp_path, files):
    asked = request(tmp_path / "whole", MODEL, loras=[named(files, "fox")])
    whole = render(packs["bfloat16"], asked)
    resume = of("checkpoint", whole)[2]
    with Engine(packs["bfloat16"]) as engine:
        engine.load(MODEL)
        for loras in ([], [named(files, "fox", 0.9)], [named(files, "fox", expert="high")], [named(files, "snow")]):
            refused = engine.render(request(tmp_path / "other", MODEL, loras=loras, resume=resume))[-1]
            assert (refused["kind"], refused["code"]) == ("checkpoint", "other_task")
    # A name is only a name.
    again = request(tmp_path / "again", MODEL, loras=[named(files, "fox") | {"name": "vulpes"}], resume=resume)
    last = render(packs["bfloat16"], again)
    assert of("accepted", last)[0]["resume"] == "exact"
    assert last[-1]["sha256"] == whole[-1]["sha256"]


def test_a_lora_that_does_not_fit_ends_its_task_and_no_other(packs, tmp_path, files):
    with Engine(packs["bfloat16"]) as engine:
        engine.load(MODEL)
        refused = engine.render(request(tmp_path / "odd", MODEL, loras=[named(files, "odd")]))[-1]
        assert (refused["kind"], refused["code"]) == ("invalid", "lora")
        assert "'odd'" in refused["message"]
        changed = named(files, "fox") | {"sha256": "0" * 64}
        refused = engine.render(request(tmp_path / "changed", MODEL, loras=[changed]))[-1]
        assert (refused["kind"], refused["code"]) == ("retryable", "lora_unreadable")
        assert engine.render(request(tmp_path / "next", MODEL))[-1]["type"] == "finished"
        engine.load("ti2v-5B")
        one_expert = request(tmp_path / "one", "ti2v-5B", loras=[named(files, "fox", expert="high")])
        assert engine.render(one_expert)[-1]["code"] == "lora"
