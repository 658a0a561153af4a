"""Renders a little of each model on the CPU, with the packs of tests: smoke.py ENGINE PACKS. Fails when the engine does."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from PIL import Image

TASK = {"prompt": "a red fox", "negative_prompt": None, "width": 64, "height": 64, "frames": 5, "steps": 2, "seed": 7}
MODELS = {
    "ti2v-5B": {"fps": 24, "guidance": 5.0, "guidance_2": None, "shift": 5.0, "image": None},
    "t2v-A14B": {"fps": 16, "guidance": 4.0, "guidance_2": 3.0, "shift": 12.0, "image": None},
    "i2v-A14B": {"fps": 16, "guidance": 3.5, "guidance_2": 3.5, "shift": 5.0, "image": "image.png"},
}


def say(engine: IO[str], kind: str, **fields: object) -> None:
    engine.write(json.dumps({"type": kind, **fields}) + "\n")
    engine.flush()


def hear(engine: IO[str], *kinds: str) -> None:
    for line in engine:
        message = json.loads(line)
        if message["type"] == "error":
            sys.exit(f"smoke.py: {message}")
        if message["type"] in kinds:
            return
    sys.exit("smoke.py: the engine ended")


def main() -> None:
    engine, packs = sys.argv[1:]
    with tempfile.TemporaryDirectory() as work:
        Image.new("RGB", (64, 64), "gray").save(Path(work, "image.png"))
        process = subprocess.Popen(
            [engine, "--stdio", "--device", "cpu", "--packs", packs],
            cwd=work,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        hear(process.stdout, "hello")
        say(process.stdin, "hello", proto=[1, 1])
        for model, more in MODELS.items():
            say(process.stdin, "load", model=model)
            hear(process.stdout, "ready")
            task = {"model": model, **TASK, **more}
            checkpoint = {"every_steps": 1, "min_interval_s": 0.0}
            say(
                process.stdin,
                "render",
                **{"id": model, "attempt": 1, "task": task, "work_dir": work, "out_dir": work, "resume": None},
                checkpoint=checkpoint,
            )
            hear(process.stdout, "finished")
            print(f"smoke.py: {model} renders", flush=True)
        say(process.stdin, "shutdown", grace_s=5)
        sys.exit(process.wait(60))


if __name__ == "__main__":
    main()
