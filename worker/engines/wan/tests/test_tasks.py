"""What a task may ask for, and what becomes of the rest."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from engine import Engine, of, request
from pictures import encoded, gradient, write
from spotreel_wan import image
from spotreel_wan.contract import Refusal


@pytest.fixture(scope="module")
def engines(packs):
    """One for each model, loaded."""
    with Engine(packs["bfloat16"]) as one, Engine(packs["bfloat16"]) as two, Engine(packs["bfloat16"]) as three:
        found = dict(zip(("ti2v-5B", "t2v-A14B", "i2v-A14B"), (one, two, three)))
        for name, engine in found.items():
            assert engine.load(name)["type"] == "ready"
        yield found


def answer(engines, directory, model, **task):
    return engines[model].render(request(directory, model, **task))[-1]


@pytest.mark.parametrize(
    ("model", "task", "code"),
    [
        ("t2v-A14B", {"prompt": "  "}, "prompt"),
        ("t2v-A14B", {"width": 130}, "size"),
        ("ti2v-5B", {"height": 112}, "size"),
        ("t2v-A14B", {"width": 48}, "size"),
        ("t2v-A14B", {"width": 1920, "height": 1088}, "size"),
        ("ti2v-5B", {"width": 1280, "height": 736}, "size"),
        ("t2v-A14B", {"frames": 10}, "frames"),
        ("t2v-A14B", {"frames": 85}, "frames"),
        ("t2v-A14B", {"frames": 0}, "frames"),
        ("t2v-A14B", {"fps": 0}, "fps"),
        ("t2v-A14B", {"steps": 61}, "steps"),
        ("t2v-A14B", {"guidance": 0.5}, "guidance"),
        ("t2v-A14B", {"guidance_2": 11.0}, "guidance"),
        ("t2v-A14B", {"shift": 0.0}, "shift"),
        ("t2v-A14B", {"seed": -1}, "seed"),
        ("t2v-A14B", {"seed": 2**53}, "seed"),
        ("t2v-A14B", {"image": "/any"}, "image"),
        ("i2v-A14B", {}, "image"),
    ],
)
def test_what_cannot_be_rendered_as_asked_is_invalid(engines, tmp_path, model, task, code):
    refused = answer(engines, tmp_path, model, **task)
    assert (refused["kind"], refused["code"], refused["restart"]) == ("invalid", code, False)


def test_512_tokens_are_the_most(engines, tmp_path):
    # A letter apart from others is a token of its own, and the last one ends the text.
    longest, longer = " ".join("z" * 255) + "z", " ".join("z" * 256)
    counts = {}
    for prompt in (longest, longer):
        heard = engines["t2v-A14B"].render(request(tmp_path, "t2v-A14B", prompt=prompt, steps=1))
        last = heard[-1]
        counts[prompt] = last["meta"]["prompt_tokens"]["prompt"] if last["type"] == "finished" else last["context"]
    assert counts[longest] == 512
    assert counts[longer] == {"tokens": 513, "max": 512}
    refused = answer(engines, tmp_path, "t2v-A14B", negative_prompt=longer)
    assert (refused["kind"], refused["code"]) == ("invalid", "prompt_too_long")


def test_an_absent_negative_prompt_is_the_models_own_and_an_empty_one_is_empty(engines, tmp_path):
    from spotreel_wan.models import NEGATIVE_PROMPT

    videos = {}
    for name, negative in (("absent", None), ("own", NEGATIVE_PROMPT), ("empty", "")):
        videos[name] = answer(engines, tmp_path / name, "t2v-A14B", negative_prompt=negative)["sha256"]
    assert videos["absent"] == videos["own"] != videos["empty"]


def test_guidance_of_the_second_expert_counts_where_the_first_has_none(engines, tmp_path):
    videos = set()
    for low in (1.0, 3.0, 6.0):
        finished = answer(engines, tmp_path / str(low), "t2v-A14B", guidance=1.0, guidance_2=low)
        videos.add(finished["sha256"])
    assert len(videos) == 3


def test_one_guidance_holds_for_both_experts(engines, tmp_path):
    one = answer(engines, tmp_path / "one", "t2v-A14B", guidance=4.0, guidance_2=None)
    both = answer(engines, tmp_path / "both", "t2v-A14B", guidance=4.0, guidance_2=4.0)
    assert one["sha256"] == both["sha256"]


@pytest.mark.parametrize("model", ["ti2v-5B", "i2v-A14B"])
def test_bad_images_are_invalid_and_missing_ones_are_not_the_tasks_fault(engines, tmp_path, model):
    png = encoded(gradient())
    bad = {
        "empty": b"",
        "text": b"no image at all",
        "half": png[: len(png) // 2],
        "gif": encoded(gradient(), "GIF"),
        "tiff": encoded(gradient(), "TIFF"),
        "strip": encoded(gradient(1000, 100)),
        "bomb": encoded(Image.new("L", (7000, 7000))),
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }
    for name, data in bad.items():
        refused = answer(engines, tmp_path, model, image=write(tmp_path / name, data))
        assert (refused["kind"], refused["code"]) == ("invalid", "image"), (name, refused)
    refused = answer(engines, tmp_path, model, image=str(tmp_path / "gone"))
    assert (refused["kind"], refused["code"]) == ("retryable", "image_unreadable")
    good = answer(engines, tmp_path, model, image=write(tmp_path / "good", png))
    assert good["type"] == "finished"


@pytest.mark.parametrize("model", ["ti2v-5B", "i2v-A14B"])
def test_the_image_decides_the_video(engines, tmp_path, model):
    videos = set()
    for turn in (0, 180):
        data = encoded(gradient().rotate(turn))
        videos.add(answer(engines, tmp_path / str(turn), model, image=write(tmp_path / f"{turn}.png", data))["sha256"])
    assert len(videos) == 2


def prepared(picture, kind="PNG", size=(128, 96), **options):
    return np.asarray(image.prepare(encoded(picture, kind, **options), *size)).astype(int)


def test_an_image_of_the_right_size_is_left_as_it_is():
    assert np.array_equal(prepared(gradient()), np.asarray(gradient()))


def test_images_are_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn a quarter to the right.
    turned = gradient().rotate(90, expand=True)
    assert np.array_equal(prepared(turned, exif=exif), np.asarray(gradient()))


def test_transparency_becomes_black():
    picture = gradient().convert("RGBA")
    picture.putalpha(0)
    assert prepared(picture).max() == 0


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "I;16", "CMYK"])
def test_any_kind_of_pixels_will_do(mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert prepared(gradient().convert("L" if mode in ("I;16", "LA") else mode).convert(mode), kind).shape == (
        96,
        128,
        3,
    )


def test_other_shapes_cover_the_frame_and_lose_equally_on_both_sides():
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("white", (80, 0, 220, 100))
    cut = prepared(wide, size=(128, 96))
    assert cut.shape == (96, 128, 3)
    assert cut[:, :, 1].min() > 200, "the red at both ends is gone"
    tall = prepared(gradient(100, 390), size=(96, 96))
    assert abs(tall[:, :, 1].mean() - 127) < 3
    assert prepared(Image.new("L", (1, 1), 9), size=(832, 480)).tolist()[0][0] == [9, 9, 9]


def test_too_many_bytes_are_not_even_decoded(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(image.MAX_BYTES + 1))
    with pytest.raises(Refusal) as refused:
        image.read(path)
    assert refused.value.kind == "invalid"


def test_a_colour_profile_is_applied():
    from PIL import ImageCms

    profile = io.BytesIO(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes())
    # One that does not fit the pixels counts as none.
    assert np.array_equal(prepared(gradient(), icc_profile=profile.getvalue()), np.asarray(gradient()))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.abs(prepared(gradient(), icc_profile=srgb) - np.asarray(gradient())).max() <= 1


def test_the_metadata_tell_how_it_was_made_but_not_the_prompt(engines, tmp_path):
    heard = engines["ti2v-5B"].render(request(tmp_path, "ti2v-5B"))
    meta = heard[-1]["meta"]
    assert json.loads((tmp_path / "out" / "meta.json").read_text()) == meta
    assert (meta["engine"], meta["device"], meta["profile"], meta["tiled"]) == ("wan", "cpu", "resident", False)
    assert meta["parameters"]["shift"] == 5.0
    assert len(meta["step_seconds"]) == len(of("step", heard))
    assert "fox" not in json.dumps(meta)
    poster = Image.open(heard[-1]["poster"])
    assert (poster.format, poster.size) == ("JPEG", (128, 96))
