"""The tiny packs through the real worker, NATS and S3 to an MP4; and every way to fail, as the queue sees it.

python tests/whole_system.py PROGRAMS      the folder with spotreel, spotreel-worker, …: make -s bin-dir
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import PngImagePlugin
from PIL.PngImagePlugin import PngInfo

import published as published_layout
import test_packs
from conftest import TINY
from engine import Engine, request
from pictures import encoded, gradient
from system import SIZES, TASK_SECONDS, System, running, until


def direct(directory: Path, task: dict[str, Any], image: Path | None, packs: Path = TINY) -> str:
    """The same task, uninterrupted, by the engine alone: what its file hashes to."""
    # The engine's first guidance is the high-noise expert's, the task's is the low-noise one's.
    high = task["guidance_high_noise"]
    guidance = (task["guidance"], None) if high is None else (high, task["guidance"])
    asked = request(
        directory,
        task["model"],
        guidance=guidance[0],
        guidance_2=guidance[1],
        image=None if image is None else str(image),
        **{key: task[key] for key in ("prompt", "width", "height", "frames", "fps", "steps", "shift", "seed")},
        quality=task.get("quality"),
    )
    with Engine(packs) as engine:
        engine.load(task["model"])
        return engine.render(asked)[-1]["sha256"]


def check(what: str, holds: bool, task: dict[str, Any]) -> None:
    print(f"{'ok' if holds else 'NOT SO'}: {what}", flush=True)
    if not holds:
        raise SystemExit(json.dumps(task, indent=1))


def errors(task: dict[str, Any]) -> list[str]:
    return [attempt["error"]["kind"] for attempt in task["attempts"] if attempt["error"]]


def videos(system: System, directory: Path) -> None:
    image = directory / "image.png"
    image.write_bytes(encoded(gradient(640, 480)))
    for model in SIZES:
        more = {"image": image} if model == "i2v-A14B" else {}
        system.submit(model, model, "a lighthouse at dusk", **more)
    for model in SIZES:
        task = system.end(model)
        check(f"{model}: a video of Wan's lies in S3", task["state"] == "succeeded", task)
        same = task["video"]["sha256"] == direct(directory / model, task, image if model == "i2v-A14B" else None)
        check(f"{model}: and it is the engine's own, byte for byte", same, task)


def fast(system: System, directory: Path) -> None:
    # Its steps and guidance come with the word.
    system.submit("fast", "t2v-A14B", "a lighthouse at dusk", quality="fast", steps=None)
    system.submit("slow", "ti2v-5B", "a lighthouse at dusk", quality="fast", steps=None)
    task = system.end("fast")
    check("a fast task: four steps, and a video", (task["state"], task["steps"]) == ("succeeded", 4), task)
    same = task["video"]["sha256"] == direct(directory / "fast", task, None)
    check("and it is the engine's own, byte for byte", same, task)
    task = system.end("slow")
    once = (task["state"], errors(task)) == ("failed", ["invalid"])
    check("a fast task for a pack without distilled weights: invalid, and never tried again", once, task)


def pulled(programs: Path, packs: Path, scratch: Path) -> None:
    """The engine has no packs of its own: the worker fetches them from the bucket."""
    with running(programs, None, workers=0) as system:
        for model in SIZES:
            system.call("models", "push", packs / model)
        system.stop()
        here = scratch / "pulled"
        system.start(1, PACKS__DIR=here, PACKS__KEEP_FREE_GB="0")
        videos(system, scratch)
        fast(system, scratch)
        verified = all((here / model / ".verified").is_file() for model in SIZES)
        check("the packs came from the bucket", verified, {"found": sorted(map(str, here.rglob("*")))})
        # The tiny models share one text encoder, and all those tasks one text.
        texts = system.objects(b"wanembeds/1")
        check("encoded text lies there once for all models", texts == 1, {"encoded": texts})


def interruptions(system: System, directory: Path) -> None:
    for model in ("ti2v-5B", "t2v-A14B"):
        system.submit(f"cut-{model}", model, "a red fox {{slow@0}} {{kill_worker@3#1}}")
    for model in ("ti2v-5B", "t2v-A14B"):
        task = system.end(f"cut-{model}")
        first, last = task["attempts"][0], task["attempts"][-1]
        check(f"{model}: a worker was killed and the next one went on", task["state"] == "succeeded", task)
        check(f"{model}: from a checkpoint", first["outcome"] == "lost" and last["from_step"] > 0, task)
        same = task["video"]["sha256"] == direct(directory / f"cut-{model}", task, None)
        check(f"{model}: and the video is the uninterrupted one, byte for byte", same, task)


def failures(system: System) -> None:
    prompts = {
        "long": " ".join("z" * 256),
        "memory": "a fox {{oom@2}}",
        "bug": "a fox {{retryable@2}}",
        "device": "a fox {{device@2#1}}",
        "hung": "a fox {{hang@2#1}}",
        "crash": "a fox {{crash@2#1}}",
        "checkpoint": "a fox {{bad_ckpt@1}} {{crash@3#1}}",
    }
    for name, prompt in prompts.items():
        system.submit(name, "t2v-A14B", prompt)
    task = system.end("long")
    check("513 tokens: invalid, and never tried again", (task["state"], errors(task)) == ("failed", ["invalid"]), task)
    task = system.end("memory")
    check("out of memory: tried again, then failed", (task["state"], errors(task)) == ("failed", ["oom"] * 4), task)
    task = system.end("bug")
    check("retryable: tried again, then failed", (task["state"], errors(task)) == ("failed", ["retryable"] * 4), task)
    kinds = {"device": "device", "hung": "retryable", "crash": "retryable", "checkpoint": "retryable"}
    for name, kind in kinds.items():
        task = system.end(name)
        well = (task["state"], errors(task)) == ("succeeded", [kind])
        check(f"{name}: {kind}, and the next attempt succeeds", well, task)


def bad_images(system: System, directory: Path) -> None:
    whole = encoded(gradient(640, 480))
    broken = directory / "broken.png"
    broken.write_bytes(whole[: len(whole) // 2])
    try:
        system.submit("broken", "i2v-A14B", "a fox", image=broken)
    except subprocess.CalledProcessError as refused:
        check("half an image: refused at the door", "image" in refused.stderr, {"said": refused.stderr})
    else:
        raise SystemExit("half an image was admitted")
    odd = directory / "odd.png"
    odd.write_bytes(encoded(gradient(640, 480), pnginfo=far_too_much_text()))
    system.submit("odd", "i2v-A14B", "a fox", image=odd)
    task = system.end("odd")
    once = (task["state"], errors(task)) == ("succeeded", [])
    check("an image with more text than the engine's decoder takes: the engine never sees it", once, task)


def far_too_much_text() -> PngInfo:
    """More than the engine's decoder unpacks beside the pixels."""
    info = PngInfo()
    info.add_text("comment", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    return info


def another_models(pack: Path) -> None:
    shutil.rmtree(pack)
    shutil.copytree(TINY / "i2v-A14B", pack)


# Two models of three are spoiled at a time: the third has to be rendered all the same.
SPOILED = [
    {"ti2v-5B": (test_packs.truncated, "truncated"), "t2v-A14B": (test_packs.one_bit, "sha256_mismatch")},
    {
        "ti2v-5B": (test_packs.wrong_shapes, "wrong_shapes"),
        "t2v-A14B": (test_packs.pickle_by_another_name, "not_safetensors"),
    },
    {"ti2v-5B": (test_packs.no_tokenizer, "missing_file"), "t2v-A14B": (another_models, "wrong_model")},
]


def bad_packs(programs: Path, directory: Path) -> None:
    image = directory / "image.png"
    image.write_bytes(encoded(gradient(640, 480)))
    for number, spoiled in enumerate(SPOILED):
        packs = directory / f"packs-{number}"
        shutil.copytree(TINY, packs)
        for model, (damage, _) in spoiled.items():
            damage(packs / model)
        with running(programs, packs, workers=1) as system:
            for model in (*spoiled, "i2v-A14B"):
                more = {"image": image} if model == "i2v-A14B" else {}
                system.submit(model, model, "a lighthouse at dusk", **more)
            task = system.end("i2v-A14B")
            check("a worker with two broken packs renders the third model", task["state"] == "succeeded", task)
            for model, (_, code) in spoiled.items():
                task = until(lambda name=model: tried(system.state(name)), TASK_SECONDS, model)
                waits = task["state"] == "queued" and set(errors(task)) == {"model"}
                check(f"{model}, {code}: the worker gives the model up, the task waits for another", waits, task)
                named = code in json.dumps(task["attempts"][0]["error"])
                check(f"{model}, {code}: and says why", named, task)


def tried(task: dict[str, Any]) -> dict[str, Any] | None:
    return task if errors(task) and task["state"] != "running" else None


def made(programs: Path, directory: Path) -> Path:
    """The tiny packs once more, as an operator makes packs of what is published."""
    for model in SIZES:
        lora = TINY / model / "lora"
        more = ["--fast-high", lora / "high.safetensors", "--fast-low", lora / "low.safetensors"]
        more += ["--fast-source", "here", "--fast-license", "Apache-2.0"]
        command = [programs / "spotreel", "models", "pack", TINY / model, "--model", model, "--to", directory / model]
        command += ["--source", "here", "--revision", "1", *(more if lora.exists() else [])]
        subprocess.run(command, check=True, timeout=60)
    return directory


def published(programs: Path, directory: Path) -> None:
    """The layout, files and keys as they are published: packed, verified, pushed, pulled, rendered."""
    packs = directory / "packs"
    high, low = published_layout.loras(directory / "loras")
    for model in SIZES:
        published_layout.publish(directory / model, model)
        command = [programs / "spotreel", "models", "pack", directory / model, "--model", model, "--to", packs / model]
        command += ["--source", f"Wan-AI/Wan2.2-{model}-Diffusers", "--revision", "1"]
        if model == "t2v-A14B":
            command += ["--fast-high", high, "--fast-low", low, "--fast-source", "a/b", "--fast-license", "MIT"]
            command += ["--fast-steps", "3", "--fast-shift", "8", "--fast-strength", "0.5"]
        if model == "ti2v-5B":
            published_layout.finetune(directory / "finetune", model)
            command += ["--fast-from", directory / "finetune", "--fast-source", "a/b", "--fast-license", "MIT"]
            command += ["--fast-steps", "3", "--fast-shift", "8"]
        subprocess.run(command, check=True, timeout=60)
        engine = f"{sys.executable} -m spotreel_wan"
        verify = [programs / "spotreel", "models", "verify", packs / model, "--engine", engine]
        said = subprocess.run(verify, check=True, timeout=120, capture_output=True, text=True).stdout
        check(f"{model}: the engine reads the tokenizer as published", "418 prompts" in said, {"said": said})
    image = directory / "image.png"
    image.write_bytes(encoded(gradient(640, 480)))
    with running(programs, None, workers=0) as system:
        for model in SIZES:
            system.call("models", "push", packs / model)
        system.call("models", "lora", "add", "fox-style", "--model", "t2v-A14B", "--high", high)
        said = system.call("models", "lora", "list")
        check("a LoRA as published is in the bucket", "fox-style" in said, {"said": said})
        system.stop()
        system.start(1, PACKS__DIR=directory / "pulled", PACKS__KEEP_FREE_GB="0")
        for model in SIZES:
            more = {"image": image} if model == "i2v-A14B" else {}
            system.submit(model, model, "a red fox in the snow", **more)
        fast = {"fast": "t2v-A14B", "fast-5B": "ti2v-5B"}
        for name, model in fast.items():
            system.submit(name, model, "a red fox, 狐狸", quality="fast", steps=None)
        try:
            system.submit("long", "t2v-A14B", "a " * 600)
        except subprocess.CalledProcessError as refused:
            check("too many tokens: refused at the door", "601 tokens" in refused.stderr, {"said": refused.stderr})
        else:
            raise SystemExit("a prompt of 601 tokens was admitted")
        for name in (*SIZES, *fast):
            task = system.end(name)
            check(f"{name}, as published: a video", task["state"] == "succeeded", task)
            own = image if name == "i2v-A14B" else None
            same = task["video"]["sha256"] == direct(directory / f"direct-{name}", task, own, packs)
            check(f"{name}, as published: and it is the engine's own, byte for byte", same, task)
            if name in fast:
                check(f"{name} is what the pack says", (task["steps"], task["shift"]) == (3, 8.0), task)


def main() -> None:
    programs = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        (scratch / "published").mkdir()
        published(programs, scratch / "published")
        packs = made(programs, scratch / "packs")
        pulled(programs, packs, scratch)
        with running(programs, packs) as system:
            interruptions(system, scratch)
            failures(system)
            bad_images(system, scratch)
        bad_packs(programs, scratch)


if __name__ == "__main__":
    main()
