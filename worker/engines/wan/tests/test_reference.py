"""What the engine renders equals what a plain diffusers pipeline gives, bit for bit."""

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline, WanPipeline
from safetensors.torch import load_file

from engine import FFMPEG, STEPS, Engine, of, request
from modes import every_format, every_mode
from pictures import encoded, gradient, write
from spotreel_wan.models import NEGATIVE_PROMPT
from spotreel_wan.video import VideoWriter


def plain(pack, compute, task, image, prepare=lambda _: None):
    """diffusers alone; nothing of the engine takes part."""
    dtype = {"default": getattr(torch, compute), "vae": torch.float32}
    pipeline = WanPipeline.from_pretrained(pack, dtype=dtype) if task["model"] != "i2v-A14B" else None
    if image is not None:
        if pipeline is None:
            pipeline = WanImageToVideoPipeline.from_pretrained(pack, dtype=dtype)
        else:
            parts = {name: part for name, part in pipeline.components.items() if part is not None}
            pipeline = WanImageToVideoPipeline(**parts, expand_timesteps=True)
    pipeline.set_progress_bar_config(disable=True)
    prepare(pipeline)
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config, flow_shift=task["shift"])
    call = {
        "prompt": task["prompt"],
        "negative_prompt": NEGATIVE_PROMPT,
        "height": task["height"],
        "width": task["width"],
        "num_frames": task["frames"],
        "num_inference_steps": task["steps"],
        "guidance_scale": task["guidance"],
        "guidance_scale_2": task["guidance_2"],
    } | ({} if image is None else {"image": image})

    def run(output_type):
        generator = torch.Generator("cpu").manual_seed(task["seed"])
        return pipeline(**call, generator=generator, output_type=output_type).frames

    return run("latent"), np.stack([np.asarray(frame) for frame in run("pil")[0]])


@every_mode
@every_format
def test_latents_and_file_are_the_plain_pipelines(packs, tmp_path, model, with_image, compute):
    image = gradient() if with_image else None
    path = None if image is None else write(tmp_path / "image.png", encoded(image))
    asked = request(tmp_path, model, image=path)
    with Engine(packs[compute]) as engine:
        assert engine.load(model)["type"] == "ready"
        heard = engine.render(asked)
    assert heard[-1]["type"] == "finished", heard[-1]
    latents, frames = plain(packs[compute] / model, compute, asked["task"], image)
    last = of("checkpoint", heard)[-1]
    assert (last["next_step"], last["phase"]) == (STEPS, "decode")
    assert torch.equal(load_file(last["path"])["latents"], latents)
    reference = tmp_path / "reference.mp4"
    comment = f"AI-generated with Wan2.2 {model}"
    with VideoWriter(FFMPEG, reference, (128, 96), asked["task"]["fps"], comment) as writer:
        writer.write(frames)
        writer.finish()
    assert reference.read_bytes() == (tmp_path / "out" / "video.mp4").read_bytes()


@pytest.mark.parametrize("profile", ["swap", "swap-float8"])
@pytest.mark.parametrize("model", ["ti2v-5B", "t2v-A14B"])
def test_one_part_at_a_time_changes_nothing_and_float8_little(packs, tmp_path, model, profile):
    latents = {}
    for name in ("resident", profile):
        with Engine(packs["bfloat16"], profile=name) as engine:
            assert engine.load(model)["profile"] == name
            heard = engine.render(request(tmp_path / name, model))
        assert heard[-1]["type"] == "finished", heard[-1]
        latents[name] = load_file(of("checkpoint", heard)[-1]["path"])["latents"]
    if profile == "swap":
        assert torch.equal(*latents.values())
    else:
        assert not torch.equal(*latents.values())
        assert torch.allclose(*latents.values(), atol=0.5)
