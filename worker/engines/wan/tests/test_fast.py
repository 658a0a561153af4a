"""Distilled weights: few steps by Euler, without guidance, and never where they were not asked for."""

import hashlib
import json
import shutil
import signal

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel
from safetensors.torch import load_file, save_file

from conftest import TINY
from engine import Engine, of, request
from modes import every_format
from pictures import encoded, gradient, write
from spotreel_wan import lora
from spotreel_wan.models import MODELS
from spotreel_wan.scheduler import timesteps
from test_packs import reseal
from test_resume import at_checkpoint, render

FAST = {"quality": "fast", "steps": 4, "guidance": 1.0, "guidance_2": 1.0, "shift": 5.0}
SCHEDULE = [1000.0, 937.5, 833.333, 625.0]
every_fast_model = pytest.mark.parametrize("model", ["t2v-A14B", "i2v-A14B"])
# lightx2v's names of the layers, and diffusers'.
NAMES = {"self_attn": "attn1", "cross_attn": "attn2", "q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
FFN = {"0": "net.0.proj", "2": "net.2"}


def fast(directory, model, image=None, **more):
    if model == "i2v-A14B" and image is None:
        image = write(directory / "image.png", encoded(gradient()))
    return request(directory, model, image=image, **(FAST | more))


def merged(transformer, file):
    """By hand, from the file as it is."""
    tensors = load_file(file)
    for key, up in tensors.items():
        if not key.endswith(".lora_up.weight"):
            continue
        name = key.removesuffix(".lora_up.weight")
        down = tensors[f"{name}.lora_down.weight"].float()
        down = down * (float(tensors[f"{name}.alpha"]) / down.shape[0])
        _, _, block, part, layer = name.split(".")
        ours = f"ffn.{FFN[layer]}" if part == "ffn" else f"{NAMES[part]}.{NAMES[layer]}"
        weight = transformer.get_submodule(f"blocks.{block}.{ours}").weight
        weight.data = (weight.float() + up.float() @ down).to(weight.dtype)


class Euler(FlowMatchEulerDiscreteScheduler):
    """diffusers' own, but for the latents: they stay in float32."""

    def step(self, model_output, *arguments, **named):
        return super().step(model_output.float(), *arguments, **named)


def plain(pack, compute, task):
    """diffusers alone, with weights that have been merged already."""
    kind = WanPipeline if task["image"] is None else WanImageToVideoPipeline
    pipeline = kind.from_pretrained(pack, dtype={"default": getattr(torch, compute), "vae": torch.float32})
    pipeline.set_progress_bar_config(disable=True)
    merged(pipeline.transformer, pack / "lora" / "high.safetensors")
    merged(pipeline.transformer_2, pack / "lora" / "low.safetensors")
    pipeline.scheduler = Euler(shift=task["shift"])
    set_timesteps = pipeline.scheduler.set_timesteps
    pipeline.scheduler.set_timesteps = lambda steps, device: set_timesteps(
        sigmas=[1 - step / steps for step in range(steps)], device=device
    )
    return pipeline(
        **({} if task["image"] is None else {"image": gradient()}),
        prompt=task["prompt"],
        height=task["height"],
        width=task["width"],
        num_frames=task["frames"],
        num_inference_steps=task["steps"],
        guidance_scale=1.0,
        generator=torch.Generator("cpu").manual_seed(task["seed"]),
        output_type="latent",
    ).frames


@every_fast_model
@every_format
def test_latents_are_those_of_a_plain_pipeline_with_merged_weights(packs, tmp_path, model, compute):
    asked = fast(tmp_path, model)
    heard = render(packs[compute], asked)
    latents = load_file(of("checkpoint", heard)[-1]["path"])["latents"]
    assert torch.equal(latents, plain(packs[compute] / model, compute, asked["task"]))
    meta = heard[-1]["meta"]
    assert (meta["solver"], meta["parameters"]["quality"]) == ("euler", "fast")
    for expert, noise in (("transformer", "high"), ("transformer_2", "low")):
        file = packs[compute] / model / "lora" / f"{noise}.safetensors"
        assert meta["pack"]["fast"]["loras"][expert] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_four_steps_are_at_the_times_that_the_weights_were_distilled_for():
    config = json.loads((TINY / "t2v-A14B" / "scheduler" / "scheduler_config.json").read_text())
    found = timesteps("euler", config, 4, 5.0)
    assert np.allclose(found, SCHEDULE, atol=1e-3)
    for model in ("t2v-A14B", "i2v-A14B"):
        assert [MODELS[model].expert(t) for t in found] == ["high", "high", "low", "low"]


@every_fast_model
@pytest.mark.parametrize("profile", ["resident", "swap-float8"])
def test_killed_at_every_step_it_goes_on_exactly(packs, tmp_path, model, profile):
    whole = render(packs["bfloat16"], fast(tmp_path / "whole", model), profile=profile)
    assert [step["expert"] for step in of("step", whole)] == ["high", "high", "low", "low"]
    resume = None
    for step in range(1, 5):
        asked = fast(tmp_path / f"killed-{step}", model, resume=resume)
        heard, status = render(packs["bfloat16"], asked, profile=profile, kill_at=at_checkpoint(step))
        assert status == -signal.SIGKILL
        assert of("accepted", heard)[0]["resume"] == ("none" if step == 1 else "exact")
        resume = of("checkpoint", heard)[-1]
        kept = {"latents"} | ({"embeds.prompt", "embeds.negative"} if step < 4 else set())
        assert set(load_file(resume["path"])) - {"condition"} == kept, "Euler has no history"
    last = render(packs["bfloat16"], fast(tmp_path / "last", model, resume=resume), profile=profile)
    assert last[-1]["sha256"] == whole[-1]["sha256"]


@pytest.mark.parametrize("profile", ["resident", "swap"])
def test_distilled_weights_never_serve_another_task(packs, tmp_path, profile):
    def standard(name):
        return request(tmp_path / name, "t2v-A14B", quality="standard")

    # Each by an engine that has never done anything else.
    alone = {
        "standard": render(packs["bfloat16"], standard("a"), profile=profile)[-1]["sha256"],
        "fast": render(packs["bfloat16"], fast(tmp_path / "b", "t2v-A14B"), profile=profile)[-1]["sha256"],
    }
    assert alone["standard"] != alone["fast"]
    with Engine(packs["bfloat16"], profile=profile) as engine:
        engine.load("t2v-A14B")
        for number, kind in enumerate(("standard", "fast", "fast", "standard", "fast")):
            name = f"{number}"
            asked = standard(name) if kind == "standard" else fast(tmp_path / name, "t2v-A14B")
            assert engine.render(asked)[-1]["sha256"] == alone[kind], (number, kind)


def test_a_checkpoint_of_one_quality_is_of_no_use_to_another(packs, tmp_path):
    with Engine(packs["bfloat16"]) as engine:
        engine.load("t2v-A14B")
        quick = of("checkpoint", engine.render(fast(tmp_path / "fast", "t2v-A14B")))[1]
        same = {key: value for key, value in FAST.items() if key != "quality"}
        refused = engine.render(request(tmp_path / "other", "t2v-A14B", resume=quick, **same))[-1]
        assert (refused["kind"], refused["code"]) == ("checkpoint", "other_task")


def test_one_pass_a_step(packs, tmp_path):
    passes = tmp_path / "passes"
    forward = WanTransformer3DModel.forward

    def counted(self, *arguments, **named):
        with passes.open("a") as file:
            file.write(".")
        return forward(self, *arguments, **named)

    def hook():
        WanTransformer3DModel.forward = counted

    render(packs["bfloat16"], fast(tmp_path, "t2v-A14B"), hook=hook)
    assert len(passes.read_text()) == 4


def test_a_pack_without_them_refuses_and_the_engine_says_so_before(packs, tmp_path):
    with Engine(packs["bfloat16"]) as engine:
        features = engine.hello["features"]
        assert [name for name in features if name.startswith("fast")] == ["fast:t2v-A14B", "fast:i2v-A14B"]
        engine.load("ti2v-5B")
        refused = engine.render(request(tmp_path, "ti2v-5B", quality="fast"))[-1]
        assert (refused["kind"], refused["code"]) == ("invalid", "quality")
        assert engine.render(request(tmp_path, "ti2v-5B", quality="best"))[-1]["type"] == "finished"


def test_the_pack_says_how_its_distilled_weights_are_sampled(one_pack, tmp_path):
    pack = one_pack / "t2v-A14B"
    fast_of = json.loads((pack / "pack.json").read_text())["fast"]
    recipe = {"steps": 3, "shift": 8.0, "guidance": 1.0, "scheduler": "unipc"}
    reseal(pack, fast=fast_of | {"recipe": recipe})
    asked = fast(tmp_path, "t2v-A14B", steps=3, shift=8.0)
    last = render(one_pack, asked)[-1]
    assert (last["meta"]["solver"], last["meta"]["pack"]["fast"]["recipe"]) == ("unipc", recipe)
    reseal(pack, fast=fast_of | {"recipe": recipe | {"scheduler": "magic"}})
    with Engine(one_pack) as engine:
        assert engine.load("t2v-A14B")["code"] == "bad_index"


def test_an_engine_with_them_for_all_its_models_says_it_of_all(tmp_path):
    for name in MODELS:
        shutil.copytree(TINY / name, tmp_path / name)
    shutil.copytree(TINY / "t2v-A14B" / "lora", tmp_path / "ti2v-5B" / "lora")
    weights = {"loras": {"transformer": "lora/high.safetensors"}, "source": {}, "license": ""}
    reseal(tmp_path / "ti2v-5B", fast=weights)
    with Engine(tmp_path) as engine:
        assert {"fast", "fast:ti2v-5B"} < set(engine.hello["features"])


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["diffusion_model.", ""])
def test_published_files_carry_more_than_matrices(tmp_path, prefix):
    """Alpha as an integer, and changes of biases, norms and modulation; some have no prefix."""
    pack = TINY / "t2v-A14B"
    tensors = load_file(pack / "lora" / "high.safetensors")
    tensors |= {name: tensor.long() for name, tensor in tensors.items() if name.endswith(".alpha")}
    layer = "diffusion_model.blocks.0.cross_attn.k"
    tensors[f"{layer}.diff_b"] = torch.linspace(-1, 1, 24)
    changes = {
        "blocks.0.cross_attn.norm_k.diff": ("blocks.0.attn2.norm_k.weight", torch.full((24,), 0.5)),
        "blocks.1.self_attn.norm_q.diff": ("blocks.1.attn1.norm_q.weight", torch.full((24,), 0.25)),
        "blocks.0.norm3.diff": ("blocks.0.norm2.weight", torch.full((24,), 2.0)),
        "blocks.0.norm3.diff_b": ("blocks.0.norm2.bias", torch.full((24,), 3.0)),
        "blocks.1.diff_m": ("blocks.1.scale_shift_table", torch.ones(1, 6, 24)),
        "head.diff_m": ("scale_shift_table", torch.ones(1, 2, 24)),
    }
    tensors |= {f"diffusion_model.{name}": change for name, (_, change) in changes.items()}
    # Of a file for another kind of model, without effect.
    tensors["diffusion_model.img_emb.proj.0.diff"] = torch.zeros(24)
    tensors = {prefix + name.removeprefix("diffusion_model."): tensor for name, tensor in tensors.items()}
    save_file(tensors, tmp_path / "lora.safetensors")
    ours, theirs = (WanTransformer3DModel.from_pretrained(pack / "transformer") for _ in range(2))
    adapter = lora.Adapter("", 1.0, tmp_path / "lora.safetensors")
    lora.merge(ours, lora.read(ours, (adapter,)))
    merged(theirs, pack / "lora" / "high.safetensors")
    theirs.blocks[0].attn2.to_k.bias += torch.linspace(-1, 1, 24)
    for ours_is, change in changes.values():
        theirs.get_parameter(ours_is).add_(change)
    wanted = theirs.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in ours.state_dict().items())


def without_a_half(tensors):
    del tensors["diffusion_model.blocks.1.ffn.2.lora_up.weight"]


def for_no_layer(tensors):
    for half in ("down", "up"):
        tensors[f"diffusion_model.blocks.7.ffn.2.lora_{half}.weight"] = torch.zeros(2, 2)


def of_another_width(tensors):
    tensors["diffusion_model.blocks.0.ffn.0.lora_down.weight"] = torch.zeros(2, 25)


def empty(tensors):
    tensors.clear()


def a_change_of_nothing_known(tensors):
    tensors["diffusion_model.patch_embedding.diff"] = torch.ones(24)


def a_bias_that_was_dropped_in_silence(tensors):
    tensors["diffusion_model.time_projection.1.diff_b"] = torch.ones(144)


def not_finite(tensors):
    tensors["diffusion_model.blocks.0.ffn.0.lora_up.weight"][0, 0] = float("nan")


@pytest.mark.parametrize(
    "damage",
    [
        without_a_half,
        for_no_layer,
        of_another_width,
        empty,
        a_change_of_nothing_known,
        a_bias_that_was_dropped_in_silence,
        not_finite,
    ],
)
def test_a_lora_that_does_not_fit_is_the_packs_fault(one_pack, tmp_path, damage):
    file = one_pack / "t2v-A14B" / "lora" / "low.safetensors"
    tensors = load_file(file)
    damage(tensors)
    save_file(tensors, file)
    reseal(one_pack / "t2v-A14B")
    with Engine(one_pack) as engine:
        engine.load("t2v-A14B")
        refused = engine.render(fast(tmp_path, "t2v-A14B"))[-1]
        assert (refused["kind"], refused["code"]) == ("model", "bad_lora")
        assert engine.render(request(tmp_path, "t2v-A14B"))[-1]["type"] == "finished"
