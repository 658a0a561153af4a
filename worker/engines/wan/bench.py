"""Measures the engine: seconds a step, memory, decoding, and whether a resume gives the same bytes.

    python bench.py                 on a GPU: the real architectures with random weights at official sizes
    python bench.py --tiny          anywhere: the tiny architectures; says nothing about speed

Random weights take the time and the memory of trained ones. Every run is a process of its own; the resumed one begins
with nothing but a checkpoint. "bare" is diffusers' own pipeline on the same weights, without checkpoints. The table
goes to stdout, all figures to --json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spotreel_wan.__main__ import ENVIRONMENT

os.environ.update(ENVIRONMENT)

import torch  # noqa: E402
from diffusers import UniPCMultistepScheduler  # noqa: E402
from PIL import Image  # noqa: E402

from random_weights import RandomShelf  # noqa: E402
from spotreel_wan.channel import Outbox  # noqa: E402
from spotreel_wan.contract import EXIT_DEVICE, HashedFile, Request, Task  # noqa: E402
from spotreel_wan.current import Current  # noqa: E402
from spotreel_wan.denoise import Denoiser  # noqa: E402
from spotreel_wan.device import Device, open_device  # noqa: E402
from spotreel_wan.models import MODELS  # noqa: E402
from spotreel_wan.profile import PROFILES  # noqa: E402
from spotreel_wan.recipe import Recipe  # noqa: E402
from spotreel_wan.render import Job, Tools  # noqa: E402
from spotreel_wan.tuning import tuning  # noqa: E402
from spotreel_wan.video import ffmpeg_path, ffmpeg_version  # noqa: E402

HERE = Path(__file__).resolve().parent
# Enough for a median without the first, and for both experts to run.
STEPS = 6
RESUME_AT = 3
RUN_SECONDS = 3600
SHIFT = {"ti2v-5B": 5.0, "t2v-A14B": 12.0, "i2v-A14B": 5.0}
SIZES = {
    "ti2v-5B": [(1280, 704, 121)],
    "t2v-A14B": [(832, 480, 81), (1280, 720, 81)],
    "i2v-A14B": [(832, 480, 81), (1280, 720, 81)],
}
# Seconds of a whole official render on one GPU, by a word of its name (Wan2.2's README), and the steps of it.
OFFICIAL = {
    ("4090", "ti2v-5B", 1280): (535, 50),
    ("A100", "t2v-A14B", 832): (786, 40),
    ("A100", "t2v-A14B", 1280): (2736, 40),
    ("H100", "t2v-A14B", 832): (327, 40),
    ("H100", "t2v-A14B", 1280): (1042, 40),
}


@dataclass(frozen=True)
class Case:
    model: str
    width: int
    height: int
    frames: int
    profile: str

    @property
    def name(self) -> str:
        return f"{self.model} {self.width}x{self.height} {self.frames} frames, {self.profile}"


class Listening:
    """The engine's stream: what it says is kept."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []

    def write(self, line: bytes) -> None:
        self.heard.append(json.loads(line))

    def flush(self) -> None:
        pass


def task_of(case: Case, directory: Path) -> Task:
    image = None
    if case.model == "i2v-A14B":
        image = directory / "image.png"
        Image.linear_gradient("L").resize((case.width, case.height)).convert("RGB").save(image)
    two = case.model != "ti2v-5B"
    return Task(
        model=case.model,
        prompt="a red fox in the snow",
        negative_prompt=None,
        width=case.width,
        height=case.height,
        frames=case.frames,
        fps=16 if two else 24,
        quality=None,
        steps=STEPS,
        guidance=4.0 if two else 5.0,
        guidance_2=3.0 if two else None,
        shift=SHIFT[case.model],
        seed=7,
        image=image,
    )


def run_one(case: Case, directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own."""
    device = open_device("auto")
    model = MODELS[case.model]
    speed = tuning(options.attention, options.compile, options.cache)
    shelf = RandomShelf(model, PROFILES[case.profile], device, speed, options.tiny)
    task = task_of(case, directory)
    if options.bare:
        return {"step_seconds": bare_steps(shelf, task)}
    resume = options.resume
    out = directory / ("resumed" if resume else "whole")
    out.mkdir(exist_ok=True)
    ffmpeg, stream = ffmpeg_path(None), Listening()
    outbox = Outbox(stream)
    tools = Tools(outbox, Current(outbox), ffmpeg, ffmpeg_version(ffmpeg), False)
    taken_up = None
    if resume is not None:
        taken_up = HashedFile(Path(resume), json.loads(Path(resume + ".json").read_text())["sha256"])
    every = 1 if speed.cache is None else RESUME_AT
    request = Request("bench", 1, task, out, out, taken_up, None, every, 0.0)
    tools.current.expect(request)
    Job(request, shelf, tools).run()
    last = stream.heard[-1]
    if last["type"] == "error":
        return {"error": f"{last['kind']}: {last['message']}"}
    checkpoints = [message for message in stream.heard if message["type"] == "checkpoint"]
    for checkpoint in checkpoints:
        Path(checkpoint["path"] + ".json").write_text(json.dumps(checkpoint))
    return {
        "device": device.name,
        "step_seconds": last["meta"]["step_seconds"],
        "peak_bytes": last["meta"]["vram_peak"],
        "tiled": last["meta"]["tiled"],
        "timings": last["timings"],
        "resume": last["meta"]["resume"],
        "class": last["meta"]["class"],
        "video_sha256": last["sha256"],
        "latents_sha256": checkpoints[-1]["sha256"],
        "checkpoint_bytes": max(checkpoint["bytes"] for checkpoint in checkpoints),
        "checkpoints": {checkpoint["next_step"]: checkpoint["path"] for checkpoint in checkpoints},
    }


def bare_steps(shelf: RandomShelf, task: Task) -> list[float]:
    """diffusers' pipeline and scheduler as they are."""
    picture = None if task.image is None else Image.open(task.image)
    denoiser = Denoiser(shelf, Recipe(task, shelf.model, None, "bare"), picture)
    pipeline = denoiser._pipeline
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
    start = denoiser.start(denoiser.encode_text())
    marks = []

    def mark(*_: Any) -> dict[str, Any]:
        if shelf.device.is_cuda:
            torch.cuda.synchronize()
        marks.append(time.monotonic())
        return {}

    mark()
    pipeline(
        **({} if picture is None else {"image": picture}),
        height=task.height,
        width=task.width,
        num_frames=task.frames,
        num_inference_steps=task.steps,
        guidance_scale=task.guidance,
        guidance_scale_2=task.guidance_2,
        latents=start.latents,
        prompt_embeds=start.prompt_embeds.to(shelf.device.torch),
        negative_prompt_embeds=start.negative_embeds.to(shelf.device.torch),
        output_type="latent",
        callback_on_step_end=mark,
    )
    return [after - before for before, after in zip(marks, marks[1:])]


def spawn(case: Case, directory: Path, options: argparse.Namespace, *flags: str) -> dict[str, Any]:
    result = directory / "result.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--one", json.dumps(vars(case)), "--directory", str(directory), *flags]
    command += ["--tiny"] if options.tiny else []
    command += ["--compile"] if options.compile else []
    command += [f"--attention={options.attention}", f"--cache={options.cache}"]
    try:
        status = subprocess.run(command, timeout=RUN_SECONDS, cwd=HERE).returncode
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {RUN_SECONDS} s"}
    if status != 0:
        return {"error": "the device was lost" if status == EXIT_DEVICE else f"exit status {status}"}
    return json.loads(result.read_text())


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        directory = Path(scratch)
        whole = spawn(case, directory, options)
        if "error" in whole:
            return {"case": case.name, **whole}
        resumed = spawn(case, directory, options, "--resume", whole["checkpoints"][str(RESUME_AT)])
        bare = {} if options.no_bare else spawn(case, directory, options, "--bare")
    same = [whole[key] == resumed.get(key) for key in ("latents_sha256", "video_sha256")]
    return {"case": case.name, "model": case.model, "width": case.width, "whole": whole, "resumed": resumed} | {
        "exact": all(same) and resumed.get("resume") == "exact",
        "bare": bare,
    }


def median(seconds: list[float]) -> float:
    """Without the first, which warms everything up."""
    return statistics.median(seconds[1:])


def row(result: dict[str, Any]) -> str:
    if "error" in result:
        return f"| {result['case']} | {result['error']} | | | | | |"
    whole = result["whole"]
    step = median(whole["step_seconds"])
    bare = "–"
    # On a CPU it would be a figure about the neighbours.
    if whole["peak_bytes"] is not None and "step_seconds" in result["bare"]:
        bare = f"{step / median(result['bare']['step_seconds']):.2f}"
    official = next(
        (
            f"{step / (seconds / steps):.2f}"
            for (word, model, width), (seconds, steps) in OFFICIAL.items()
            if word in whole["device"] and (model, width) == (result["model"], result["width"])
        ),
        "–",
    )
    peak = "–" if whole["peak_bytes"] is None else f"{whole['peak_bytes'] / 2**30:.1f} GiB"
    exact = "the same bytes" if result["exact"] else "DIFFERS"
    return (
        f"| {result['case']} | {step:.3f} s | {bare} | {official} | {peak} "
        f"| {whole['timings']['decode']:.2f} s{', tiled' if whole['tiled'] else ''} | {exact} |"
    )


def cases(options: argparse.Namespace, device: Device) -> list[Case]:
    if options.tiny:
        return [Case(model, 128, 96, 9, profile) for model in SIZES for profile in PROFILES]
    found = [Case(model, *size, profile) for model, sizes in SIZES.items() for size in sizes for profile in PROFILES]
    return [case for case in found if options.only in case.name and device.is_cuda]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="use tiny architectures, on any device")
    parser.add_argument("--only", default="", help="only cases whose name contains this, such as 'ti2v-5B 1280x704'")
    parser.add_argument("--no-bare", action="store_true", help="do not measure diffusers' pipeline without the engine")
    parser.add_argument("--attention", default="native", help="attention backend, as for the engine")
    parser.add_argument("--compile", action="store_true", help="compile blocks, as for the engine")
    parser.add_argument("--cache", default="off", help="block cache, as for the engine; reset at every third step")
    parser.add_argument("--scratch", type=Path, help="directory for temporary checkpoints and videos")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--resume", help=argparse.SUPPRESS)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        case = Case(**json.loads(options.one))
        result = run_one(case, options.directory, options)
        (options.directory / "result.json").write_text(json.dumps(result))
        return
    device = open_device("auto")
    if not device.is_cuda and not options.tiny:
        print("No GPU here: the official sizes are not measured. What follows is tiny and tells nothing about speed.\n")
        options.tiny = True
    print(f"{device.name}, torch {torch.__version__}, {STEPS} steps, random weights\n")
    print("| case | a step | × bare | × official | peak | decode and encode | resumed from a checkpoint |")
    print("|---|---|---|---|---|---|---|")
    results = []
    for case in cases(options, device):
        results.append(measure(case, options))
        print(row(results[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if any(not result.get("exact", True) for result in results):
        raise SystemExit("a resumed render differs")


if __name__ == "__main__":
    main()
