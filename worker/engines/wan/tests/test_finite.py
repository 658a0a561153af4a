"""NaN is an error where it begins: never a black video, and never in a checkpoint."""

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file

from engine import STEPS, Engine, of, request
from test_checkpoints import forge
from test_packs import reseal
from test_resume import render

MODEL = "t2v-A14B"


def damage(pack, file, change):
    tensors = load_file(pack / file)
    change(tensors)
    save_file(tensors, pack / file, metadata={"format": "pt"})
    reseal(pack)


def nan_bias(tensors):
    tensors["blocks.0.ffn.net.2.bias"][0] = float("nan")


@pytest.mark.parametrize("profile", ["resident", "swap-float8"])
def test_weights_with_nan_are_the_packs_fault(one_pack, tmp_path, profile):
    damage(one_pack / MODEL, "transformer_2/diffusion_pytorch_model.safetensors", nan_bias)
    with Engine(one_pack, profile=profile) as engine:
        answer = engine.load(MODEL)
        if profile != "resident":
            answer = engine.render(request(tmp_path, MODEL))[-1]
        assert (answer["kind"], answer["code"]) == ("model", "not_finite")


def test_what_overflows_is_no_video(one_pack, tmp_path):
    def huge(tensors):
        tensors["proj_out.bias"] += 1e30

    damage(one_pack / MODEL, "transformer/diffusion_pytorch_model.safetensors", huge)
    refused = render_all(one_pack, request(tmp_path, MODEL))[-1]
    assert (refused["kind"], refused["code"]) == ("retryable", "not_finite")


def render_all(packs, asked, **how):
    with Engine(packs, **how) as engine:
        assert engine.load(MODEL)["type"] == "ready"
        return engine.render(asked)


def once_nan():
    """In the third step, as a GPU with a fault might."""
    forward, calls = WanTransformer3DModel.forward, []

    def faulty(self, *arguments, **named):
        calls.append(1)
        found = forward(self, *arguments, **named)
        return (found[0] * float("nan"),) if len(calls) == 5 else found

    WanTransformer3DModel.forward = faulty


def test_a_retry_heals_what_was_wrong_once(packs, tmp_path):
    whole = render(packs["bfloat16"], request(tmp_path / "whole", MODEL))
    heard = render_all(packs["bfloat16"], request(tmp_path / "faulty", MODEL), hook=once_nan)
    assert (heard[-1]["kind"], heard[-1]["code"]) == ("retryable", "not_finite")
    assert [c["next_step"] for c in of("checkpoint", heard)] == [1, 2], "none of the step that went wrong"
    again = render(packs["bfloat16"], request(tmp_path / "again", MODEL, resume=of("checkpoint", heard)[-1]))
    assert of("accepted", again)[0]["resume"] == "exact"
    assert again[-1]["sha256"] == whole[-1]["sha256"]


def test_a_checkpoint_of_a_black_video_is_not_decoded(packs, tmp_path):
    last = of("checkpoint", render(packs["bfloat16"], request(tmp_path / "whole", MODEL)))[-1]
    assert (last["next_step"], last["phase"]) == (STEPS, "decode")
    forged = forge(last, tmp_path / "forged", lambda tensors, _: tensors["latents"].view(-1)[:1].fill_(float("inf")))
    refused = render_all(packs["bfloat16"], request(tmp_path / "again", MODEL, resume=forged))[-1]
    assert (refused["kind"], refused["code"]) == ("checkpoint", "not_finite")


def nan_frames():
    encode = AutoencoderKLWan.from_pretrained

    def spoiled(*arguments, **named):
        vae = encode(*arguments, **named)
        forward = vae.decoder.forward
        vae.decoder.forward = lambda *a, **n: forward(*a, **n) * float("nan")
        return vae

    AutoencoderKLWan.from_pretrained = spoiled


def test_frames_with_nan_are_no_video(packs, tmp_path):
    heard = render_all(packs["bfloat16"], request(tmp_path, MODEL), hook=nan_frames)
    assert (heard[-1]["kind"], heard[-1]["code"]) == ("retryable", "not_finite")
    assert of("phase", heard)[-1]["name"] == "decode"
    assert not (tmp_path / "out" / "video.mp4").exists()


def test_text_with_nan_is_not_kept(packs, tmp_path):
    def nan_text():
        from spotreel_wan.denoise import Denoiser
        from spotreel_wan.embeddings import Text

        Denoiser.encode_text = lambda self: Text(torch.full((1, 512, 32), float("nan")), torch.zeros(1, 512, 32))

    heard = render_all(packs["bfloat16"], request(tmp_path, MODEL), hook=nan_text)
    assert (heard[-1]["kind"], heard[-1]["code"]) == ("retryable", "not_finite")
    assert of("embeddings", heard) == []
