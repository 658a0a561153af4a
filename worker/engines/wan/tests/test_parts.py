"""Parts by themselves: figures, profiles, decoding, the file, failures."""

import io
import re
import subprocess

import numpy as np
import pytest
import torch

from engine import FFMPEG
from spotreel_wan import decode, profile, recipe
from spotreel_wan.channel import Inbox, LineTooLong
from spotreel_wan.contract import MAX_LINE, Refusal, Task, common_version
from spotreel_wan.device import Device, open_device
from spotreel_wan.failure import refusal
from spotreel_wan.models import MODELS
from spotreel_wan.pack import open_pack
from spotreel_wan.scheduler import timesteps
from spotreel_wan.shelf import Shelf
from spotreel_wan.video import VideoWriter

GIB = 1 << 30
SCHEDULER = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


@pytest.mark.parametrize(("model", "steps", "shift", "high"), [("t2v-A14B", 40, 12.0, 26), ("i2v-A14B", 40, 5.0, 15)])
def test_the_official_shift_gives_each_expert_its_steps(model, steps, shift, high):
    """With the shift that converted schedulers carry it would be 13 and 11."""
    experts = [MODELS[model].expert(t) for t in timesteps(SCHEDULER, steps, shift)]
    assert experts == ["high"] * high + ["low"] * (steps - high)


def test_latents_and_tokens_at_the_official_sizes():
    assert MODELS["ti2v-5B"].latent_shape(1280, 704, 121) == (1, 48, 31, 44, 80)
    assert MODELS["t2v-A14B"].latent_shape(1280, 720, 81) == (1, 16, 21, 90, 160)
    assert MODELS["i2v-A14B"].latent_shape(832, 480, 81) == (1, 16, 21, 60, 104)
    tokens = [MODELS[m].tokens(*s) for m, s in (("ti2v-5B", (1280, 704, 121)), ("t2v-A14B", (832, 480, 81)))]
    assert tokens == [27_280, 32_760]


def task(model, **other):
    official = {"width": 1280, "height": 720, "frames": 81, "fps": 16, "steps": 40, "shift": 5.0, "seed": 0}
    texts = {"prompt": "a fox", "negative_prompt": None, "image": None, "guidance": 3.5, "guidance_2": None}
    return Task(**({"model": model} | official | texts | other))


def test_every_official_size_is_admitted():
    for size in ((1280, 704), (704, 1280)):
        recipe.check(task("ti2v-5B", width=size[0], height=size[1], frames=121))
    for size in ((1280, 720), (720, 1280), (832, 480), (480, 832)):
        recipe.check(task("t2v-A14B", width=size[0], height=size[1]))


# bfloat16, in bytes.
A14B = {"text_encoder": 11_400_000_000, "transformer": 28_600_000_000, "transformer_2": 28_600_000_000}
B5 = {"text_encoder": 11_400_000_000, "transformer": 10_000_000_000}


@pytest.mark.parametrize(
    ("gib", "name", "model", "weights", "size", "fits"),
    [
        (80, "swap", "t2v-A14B", A14B, (1280, 720, 81), True),
        (80, "swap", "t2v-A14B", A14B, (832, 480, 81), True),
        (48, "swap", "t2v-A14B", A14B, (832, 480, 81), True),
        (48, "swap", "t2v-A14B", A14B, (1280, 720, 81), False),
        (24, "swap", "t2v-A14B", A14B, (832, 480, 81), False),
        (141, "resident", "t2v-A14B", A14B, (1280, 720, 81), True),
        (80, "resident", "t2v-A14B", A14B, (1280, 720, 81), False),
        (80, "resident", "ti2v-5B", B5, (1280, 704, 121), True),
        (24, "swap", "ti2v-5B", B5, (1280, 704, 121), True),
        (24, "resident", "ti2v-5B", B5, (1280, 704, 121), False),
    ],
)
def test_what_fits_and_what_is_refused_with_the_memory_that_it_needs(gib, name, model, weights, size, fits):
    device = Device(torch.device("cpu"), f"a card of {gib} GiB", gib * GIB)
    asked = task(model, width=size[0], height=size[1], frames=size[2])
    check = lambda: profile.check_fit(profile.PROFILES[name], MODELS[model], weights, asked, device)  # noqa: E731
    if fits:
        return check()
    with pytest.raises(Refusal) as refused:
        check()
    assert (refused.value.kind, refused.value.code) == ("oom", "does_not_fit")
    assert refused.value.context["needed_bytes"] > gib * GIB
    return None


@pytest.mark.parametrize("model", MODELS)
def test_decoding_in_chunks_is_decoding_at_once(packs, model):
    device = open_device("cpu")
    shelf = Shelf(open_pack(packs["bfloat16"], MODELS[model]), MODELS[model], profile.PROFILES["swap"], device)
    latents = torch.randn(MODELS[model].latent_shape(128, 96, 13), generator=torch.Generator().manual_seed(0))
    chunks = list(decode.frames(shelf.vae, latents, tiled=False))
    assert [len(chunk) for chunk in chunks] == [1, 4, 4, 4]
    with torch.no_grad():
        whole = shelf.vae.decode(decode._unscale(shelf.vae, latents)).sample
    whole = ((whole * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)[0].permute(1, 2, 3, 0).numpy()
    assert np.array_equal(np.concatenate(chunks), whole)
    assert shelf.vae._feat_map.count(None) == len(shelf.vae._feat_map), "nothing is kept between videos"
    tiled = np.concatenate(list(decode.frames(shelf.vae, latents, tiled=True)))
    assert tiled.shape == whole.shape


def moving(frames=13):
    shifted = np.stack([np.roll(np.arange(128 * 96 * 3).reshape(96, 128, 3) // 150, 4 * i, 1) for i in range(frames)])
    return shifted.astype(np.uint8)


def encode(path, frames):
    with VideoWriter(FFMPEG, path, (128, 96), 16, "AI-generated") as writer:
        for frame in frames:
            writer.write(frame[None])
        writer.finish()
    return path.read_bytes()


def test_the_file_is_tagged_starts_fast_and_is_the_same_every_time(tmp_path):
    data = encode(tmp_path / "one.mp4", moving())
    assert data == encode(tmp_path / "two.mp4", moving())
    assert data.index(b"moov") < data.index(b"mdat")
    told = subprocess.run([FFMPEG, "-hide_banner", "-i", tmp_path / "one.mp4"], capture_output=True, text=True).stderr
    assert re.search(r"Video: h264 \(High\).*yuv420p\(tv, bt709, progressive\), 128x96.*16 fps", told), told
    assert "AI-generated" in told


def test_a_file_that_was_not_finished_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), VideoWriter(FFMPEG, tmp_path / "x.mp4", (128, 96), 16, "") as writer:
        writer.write(moving())
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Refusal) as refused, VideoWriter("/bin/false", tmp_path / "x.mp4", (128, 96), 16, "") as writer:
        writer.write(moving(200))
        writer.finish()
    assert (refused.value.kind, refused.value.code) == ("retryable", "encoder")


@pytest.mark.parametrize(
    ("error", "kind", "restart"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 31.00 GiB"), "oom", False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "oom", False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "oom", False),
        (MemoryError(), "oom", False),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), "device", True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "device", True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling"), "device", True),
        (OSError(28, "No space left on device"), "retryable", False),
        (RuntimeError("The size of tensor a (3) must match"), "internal", False),
        (ZeroDivisionError(), "internal", False),
    ],
)
def test_what_an_error_means_for_the_queue(error, kind, restart):
    found = refusal(error)
    assert (found.kind, found.restart) == (kind, restart)


def test_versions_and_lines():
    assert [common_version(theirs) for theirs in ([1, 1], [1, 9], [2, 3])] == [1, 1, None]
    assert list(Inbox(io.BytesIO(b"one\ntwo\nhalf")).lines()) == [b"one\n", b"two\n"]
    with pytest.raises(LineTooLong):
        list(Inbox(io.BytesIO(b"x" * MAX_LINE)).lines())
