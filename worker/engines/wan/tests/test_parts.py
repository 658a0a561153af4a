"""Parts by themselves: figures, profiles, decoding, the file, failures."""

import functools
import io
import re
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from engine import FFMPEG
from random_weights import real_config
from spotreel_wan import decode, profile, recipe
from spotreel_wan.channel import Inbox, LineTooLong
from spotreel_wan.contract import MAX_LINE, Refusal, Task, common_version
from spotreel_wan.device import Device, open_device
from spotreel_wan.failure import refusal
from spotreel_wan.models import MODELS
from spotreel_wan.pack import open_pack
from spotreel_wan.scheduler import timesteps
from spotreel_wan.shelf import Shelf
from spotreel_wan.tuning import Tuning
from spotreel_wan.video import VideoWriter
from spotreel_wan.weights import Blueprint, blueprint, empty_part

GIB = 1 << 30
SCHEDULER = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


@pytest.mark.parametrize(("model", "steps", "shift", "high"), [("t2v-A14B", 40, 12.0, 26), ("i2v-A14B", 40, 5.0, 15)])
def test_the_official_shift_gives_each_expert_its_steps(model, steps, shift, high):
    """With the shift that converted schedulers carry it would be 13 and 11."""
    experts = [MODELS[model].expert(t) for t in timesteps("unipc", SCHEDULER, steps, shift)]
    assert experts == ["high"] * high + ["low"] * (steps - high)


def test_latents_and_tokens_at_the_official_sizes():
    assert MODELS["ti2v-5B"].latent_shape(1280, 704, 121) == (1, 48, 31, 44, 80)
    assert MODELS["t2v-A14B"].latent_shape(1280, 720, 81) == (1, 16, 21, 90, 160)
    assert MODELS["i2v-A14B"].latent_shape(832, 480, 81) == (1, 16, 21, 60, 104)
    tokens = [MODELS[m].tokens(*s) for m, s in (("ti2v-5B", (1280, 704, 121)), ("t2v-A14B", (832, 480, 81)))]
    assert tokens == [27_280, 32_760]


def task(model, **other):
    official = {"width": 1280, "height": 720, "frames": 81, "fps": 16, "steps": 40, "shift": 5.0, "seed": 0}
    official["quality"] = None
    texts = {"prompt": "a fox", "negative_prompt": None, "image": None, "guidance": 3.5, "guidance_2": None}
    return Task(**({"model": model} | official | texts | other))


def test_every_official_size_is_admitted():
    for size in ((1280, 704), (704, 1280)):
        recipe.check(task("ti2v-5B", width=size[0], height=size[1], frames=121))
    for size in ((1280, 720), (720, 1280), (832, 480), (480, 832)):
        recipe.check(task("t2v-A14B", width=size[0], height=size[1]))


@functools.cache
def real(name):
    """The published architecture, without weights."""
    model = MODELS[name]
    parts = ("text_encoder", "vae", *model.experts)
    return Blueprint(model, {part: empty_part(part, real_config(model, part)) for part in parts}, torch.bfloat16)


def test_the_published_architectures_weigh_what_their_files_do():
    """Billions of parameters, as the authors count them, times the bytes of each."""
    small, large = real("ti2v-5B"), real("t2v-A14B")
    assert small.bytes("transformer") == pytest.approx(5.0e9 * 2, rel=0.01)
    assert large.bytes("transformer") == pytest.approx(14.29e9 * 2, rel=0.01)
    assert large.bytes("transformer", float8=True) == pytest.approx(14.29e9 * 1.02, rel=0.01)
    assert large.bytes("text_encoder") == pytest.approx(5.68e9 * 2, rel=0.01)
    assert [round(plan.bytes("vae") / 1e9, 1) for plan in (small, large)] == [2.8, 0.5]
    assert [plan.width for plan in (small, large)] == [3072, 5120]


def card(gib):
    return Device(torch.device("cpu"), f"a card of {gib} GiB", int(gib * GIB))


# What CUDA gives of the cards' 24, 48, 80 and 141 GB, rather too little.
A10G, L40S, H100, H200 = 22.0, 44.4, 79.1, 139.8
SMALL, LARGE, FIVE = (832, 480, 81), (1280, 720, 81), (1280, 704, 121)


@pytest.mark.parametrize(
    ("gib", "name", "model", "size", "fits"),
    [
        (A10G, "swap", "ti2v-5B", FIVE, True),
        (A10G, "resident", "ti2v-5B", FIVE, False),
        (L40S, "resident", "ti2v-5B", FIVE, True),
        (A10G, "swap", "t2v-A14B", SMALL, False),
        (A10G, "swap-float8", "t2v-A14B", SMALL, False),
        (L40S, "swap", "t2v-A14B", SMALL, True),
        (L40S, "swap", "t2v-A14B", LARGE, False),
        (H100, "swap", "i2v-A14B", SMALL, True),
        (H100, "swap", "i2v-A14B", LARGE, True),
        (H100, "resident", "t2v-A14B", LARGE, False),
        (H200, "resident", "t2v-A14B", LARGE, True),
    ],
)
def test_what_fits_and_what_is_refused_with_the_memory_that_it_needs(gib, name, model, size, fits):
    asked = task(model, width=size[0], height=size[1], frames=size[2])
    check = lambda: profile.check_fit(profile.PROFILES[name], real(model), asked, card(gib))  # noqa: E731
    if fits:
        return check()
    with pytest.raises(Refusal) as refused:
        check()
    assert (refused.value.kind, refused.value.code) == ("oom", "does_not_fit")
    assert refused.value.context["needed_bytes"] > gib * GIB
    return None


@pytest.mark.parametrize(
    ("model", "size", "least_card_gb", "peak_gb"),
    [("ti2v-5B", FIVE, 24, 22.9), ("t2v-A14B", SMALL, 48, 41.3), ("t2v-A14B", LARGE, 80, 59.8)],
)
def test_estimates_are_the_official_peaks_and_a_little_more(model, size, least_card_gb, peak_gb):
    """Wan2.2's README, one GPU, one expert at a time."""
    tokens = MODELS[model].tokens(*size)
    needed = profile.needed_bytes(profile.PROFILES["swap"], real(model), tokens)
    assert peak_gb < needed / 1e9 < peak_gb + 3


@pytest.mark.parametrize(
    ("gib", "model", "name"),
    [
        (A10G, "ti2v-5B", "swap"),
        (L40S, "ti2v-5B", "resident"),
        (43, "t2v-A14B", "swap"),
        (L40S, "t2v-A14B", "swap-float8"),
        (H100, "t2v-A14B", "swap"),
        (H200, "i2v-A14B", "resident"),
    ],
)
def test_a_card_gets_the_first_profile_with_which_everything_fits_or_else_something(gib, model, name):
    anything = SimpleNamespace(profiles=(), model=model)
    assert profile.choose(anything, real(model), None, card(gib)).name == name
    # The pack may have an order of its own.
    turned = SimpleNamespace(profiles=tuple(reversed(profile.PROFILES)), model=model)
    assert profile.choose(turned, real(model), None, card(1000)).name == "swap-float8"


def test_a_card_that_nothing_fits_is_told_the_least_that_would_do():
    with pytest.raises(Refusal) as refused:
        profile.choose(SimpleNamespace(profiles=(), model="t2v-A14B"), real("t2v-A14B"), None, card(A10G))
    assert (refused.value.kind, refused.value.code) == ("oom", "does_not_fit")
    assert 29 < refused.value.context["needed_bytes"] / 1e9 < 30


@pytest.mark.parametrize("name", [None, *profile.PROFILES])
@pytest.mark.parametrize("model", MODELS)
def test_a_host_that_is_too_small_is_told_so_at_load_and_not_by_the_kernel(model, name):
    """Not the size of an expert, which is 28.6 GB: machines with a 24 GB card have 16 GB."""
    anything = SimpleNamespace(profiles=(), model=model)

    def choose(host):
        h200 = Device(torch.device("cpu"), "a card", int(H200 * GIB), host * GIB)
        return profile.choose(anything, real(model), name, h200)

    assert choose(15).name == (name or "resident")
    with pytest.raises(Refusal, match="of this machine's own memory") as refused:
        choose(4)
    assert (refused.value.kind, refused.value.code) == ("model", "host_memory")


@pytest.mark.parametrize("model", MODELS)
def test_decoding_in_chunks_is_decoding_at_once(packs, model):
    device = open_device("cpu")
    pack = open_pack(packs["bfloat16"], MODELS[model])
    shelf = Shelf(pack, blueprint(pack, MODELS[model]), profile.PROFILES["swap"], device, Tuning())
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


# Word for word, from reports of people.
SAID_OF_MEMORY = (
    'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp":1131',
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    "CUDA driver error: out of memory",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasLtCreate(&handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "GET was unable to find an engine to execute this computation",
    "FIND was unable to find an engine to execute this computation",
    "Triton Error [CUDA]: out of memory",
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 1",
    "unable to mmap 28577218560 bytes from file <x>: Cannot allocate memory (12)",
)
SAID_OF_THE_DEVICE = (
    "Triton Error [CUDA]: an illegal memory access was encountered",
    "CUDA unknown error - this may be due to an incorrectly set up environment",
    "No CUDA GPUs are available",
    "Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized",
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU",
    "CUDA error: unspecified launch failure",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm`",
)


@pytest.mark.parametrize(
    ("error", "kind", "restart"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 31.00 GiB"), "oom", False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "oom", False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "oom", False),
        (MemoryError(), "oom", False),
        *((RuntimeError(words), "oom", False) for words in SAID_OF_MEMORY),
        (torch.AcceleratorError("CUDA error: out of memory"), "oom", False),
        (OSError(12, "Cannot allocate memory"), "oom", False),
        (SafetensorError("I/O error: Cannot allocate memory (os error 12)"), "oom", False),
        *((RuntimeError(words), "device", True) for words in SAID_OF_THE_DEVICE),
        (OSError(5, "Input/output error"), "retryable", False),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), "device", True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "device", True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling"), "device", True),
        (OSError(28, "No space left on device"), "retryable", False),
        (OSError(2, "No such file or directory"), "internal", False),
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
