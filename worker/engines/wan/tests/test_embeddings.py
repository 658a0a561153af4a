"""Encoded text is given away, and taken if it is the same that would be encoded here."""

import json
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from transformers import UMT5EncoderModel

from engine import Engine, of, request
from modes import every_mode
from pictures import encoded, gradient, write
from spotreel_wan.device import machine_word, open_device
from test_checkpoints import sha256
from test_resume import render

MODEL = "t2v-A14B"


def phases(heard):
    return [phase["name"] for phase in of("phase", heard)]


def no_text_encoder():
    def refuse(*_, **__):
        raise AssertionError("the text encoder was loaded")

    UMT5EncoderModel.from_pretrained = refuse


@every_mode
@pytest.mark.parametrize("profile", ["swap", "swap-float8"])
def test_the_same_video_comes_of_it_and_the_text_encoder_is_never_loaded(packs, tmp_path, model, with_image, profile):
    image = write(tmp_path / "image.png", encoded(gradient())) if with_image else None
    own = render(packs["bfloat16"], request(tmp_path / "own", model, image=image), profile=profile)
    said = of("embeddings", own)
    assert len(said) == 1
    assert (sha256(said[0]["path"]), Path(said[0]["path"]).stat().st_size) == (said[0]["sha256"], said[0]["bytes"])
    asked = request(tmp_path / "given", model, image=image, embeddings=said[0])
    given = render(packs["bfloat16"], asked, profile=profile, hook=no_text_encoder)
    assert of("embeddings", given) == [], "it encoded nothing"
    assert "encode_text" in phases(own)
    assert "encode_text" not in phases(given)
    assert given[-1]["sha256"] == own[-1]["sha256"]


def test_the_file_says_what_encoded_which_text(packs, tmp_path):
    heard = render(packs["bfloat16"], request(tmp_path, MODEL))
    path = of("embeddings", heard)[0]["path"]
    with safe_open(path, framework="pt") as file:
        origin = json.loads(file.metadata()["wanembeds/1"])
        assert set(file.keys()) == {"embeds.prompt", "embeds.negative"}
    assert origin["class"] == machine_word(open_device("cpu"))
    index = json.loads((packs["bfloat16"] / MODEL / "pack.json").read_text())
    theirs = {f["path"]: f["sha256"] for f in index["files"] if re.match("text_encoder/|tokenizer/", f["path"])}
    assert origin["text_encoder"] == theirs
    assert len(theirs) >= 4
    assert "fox" not in json.dumps(origin)


def test_the_word_of_the_hello_is_of_the_machine(packs):
    with Engine(packs["bfloat16"]) as one, Engine(packs["float32"]) as two:
        assert one.hello["embeddings"] == two.hello["embeddings"] == machine_word(open_device("cpu"))
    with Engine(packs["bfloat16"], hook=lambda: setattr(torch, "__version__", "9.9")) as other:
        assert other.hello["embeddings"] != one.hello["embeddings"]
    assert one.hello["checkpoint_format"] == "wanckpt/1"


def forge(said, path, *, change=lambda tensors: None, **origin):
    tensors = safetensors.torch.load_file(said["path"])
    with safe_open(said["path"], framework="pt") as file:
        kept = json.loads(file.metadata()["wanembeds/1"])
    change(tensors)
    safetensors.torch.save_file(tensors, path, {"wanembeds/1": json.dumps(kept | origin)})
    return {"path": str(path), "sha256": sha256(path)}


def test_what_does_not_match_is_passed_over(packs, tmp_path):
    with Engine(packs["bfloat16"], profile="swap") as engine:
        engine.load(MODEL)
        heard = engine.render(request(tmp_path / "own", MODEL))
        said, video = of("embeddings", heard)[0], heard[-1]["sha256"]
        garbage = write(tmp_path / "garbage", b"\x80\x04pickle" * 99)
        name = iter(f"forged-{number}" for number in range(99))

        def forged(**how):
            return forge(said, tmp_path / next(name), **how)

        offers = [
            {"path": str(tmp_path / "gone"), "sha256": "0" * 64},
            {"path": said["path"], "sha256": "0" * 64},
            {"path": garbage, "sha256": sha256(garbage)},
            forged(prompt_sha256="0" * 64),
            forged(negative_sha256="0" * 64),
            forged(text_encoder={}),
            forged(**{"class": "another"}),
            forged(change=lambda tensors: tensors.pop("embeds.negative")),
            forged(change=lambda tensors: tensors.update({"embeds.prompt": torch.zeros(1, 511, 32)})),
            forged(change=lambda tensors: tensors.update({"embeds.prompt": torch.zeros(1, 512, 32)})),
            forged(change=lambda tensors: tensors["embeds.prompt"].view(-1)[:1].fill_(float("nan"))),
        ]
        for offer in offers:
            heard = engine.render(request(tmp_path / "given", MODEL, embeddings=offer))
            assert len(of("embeddings", heard)) == 1, offer
            assert heard[-1]["sha256"] == video, offer
        other = engine.render(request(tmp_path / "other", MODEL, prompt="a blue fox", embeddings=said))
        assert len(of("embeddings", other)) == 1


def test_a_resumed_render_needs_none(packs, tmp_path):
    heard = render(packs["bfloat16"], request(tmp_path, MODEL), profile="swap")
    asked = request(tmp_path / "again", MODEL, resume=of("checkpoint", heard)[2])
    again = render(packs["bfloat16"], asked, profile="swap", hook=no_text_encoder)
    assert of("embeddings", again) == []
    assert again[-1]["sha256"] == heard[-1]["sha256"]
