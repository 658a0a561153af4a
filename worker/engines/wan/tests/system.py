"""The whole system with this engine: `spotreel dev` in a directory of its own, with the engine in the place of sim."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Loading torch takes ten seconds, and more on a busy machine; each task here does so once or twice.
TASK_SECONDS = 600
READY_SECONDS = 120
# A seed and sizes that intake admits; the least work that still crosses from one expert to the other.
SPEC = {"frames": 5, "steps": 6, "seed": 7}
SIZES = {"ti2v-5B": (1280, 704), "t2v-A14B": (832, 480), "i2v-A14B": (832, 480)}
SETTINGS = {
    "SPOTREEL_WORKER_CHECKPOINT__EVERY_STEPS": "1",
    "SPOTREEL_WORKER_RETRY__SCALE": "0.01",
    "SPOTREEL_WORKER_ENGINE__DEADLINES__STEP_FLOOR": "15s",
    "SPOTREEL_WORKER_ENGINE__DEADLINES__DECODE": "60s",
}
WITH_FAULTS = "--engine-arg=--allow-faults"


class System:
    def __init__(self, programs: Path, directory: Path, packs: Path | None, workers: int) -> None:
        self._log = directory / "dev.log"
        self._bin = directory / "bin"
        self._dir = directory / "dev"
        self._bin.mkdir()
        for program in programs.glob("spotreel*"):
            if program.is_file() and os.access(program, os.X_OK) and program.name != "spotreel-engine-sim":
                _put(program, self._bin / program.name)
        engine = self._bin / "spotreel-engine-sim"
        own = "" if packs is None else f"--packs {packs} "
        command = f"{sys.executable} -m spotreel_wan {own}--device cpu --threads 1"
        engine.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        engine.chmod(0o755)
        self.start(workers)

    def start(self, workers: int, **settings: str | Path) -> None:
        """Again, with what was there before."""
        more = {f"SPOTREEL_WORKER_{name}": str(value) for name, value in settings.items()}
        flags = ["--dir", self._dir, "--workers", str(workers), "--lease", "10s", WITH_FAULTS]
        self._process = subprocess.Popen(
            [self._bin / "spotreel", "dev", *flags],
            env=os.environ | SETTINGS | more,
            stdout=self._log.open("wb"),
            stderr=subprocess.STDOUT,
        )
        until(lambda: "ready:" in self._log.read_text(), READY_SECONDS, "spotreel dev")

    def call(self, *arguments: str | Path) -> str:
        command = [self._bin / "spotreel", "--dir", self._dir, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    def submit(self, name: str, model: str, prompt: str, **more: Any) -> None:
        spec = {"id": name, "model": model, "prompt": prompt, "size": "{}x{}".format(*SIZES[model]), **SPEC, **more}
        spec = {key: value for key, value in spec.items() if value is not None}
        if "image" in spec:
            self.call("submit", *(f"--{key.replace('_', '-')}={value}" for key, value in spec.items()))
        else:
            path = self._dir / f"{name}.json"
            path.write_text(json.dumps(spec) + "\n")
            self.call("submit", "--file", path)

    def state(self, name: str) -> dict[str, Any]:
        tasks = [json.loads(line) for line in self.call("list", "--json").splitlines()]
        return next(task for task in tasks if task["id"] == name)

    def end(self, name: str) -> dict[str, Any]:
        return until(lambda: ended(self.state(name)), TASK_SECONDS, name)

    def objects(self, words: bytes) -> int:
        """How many in S3 have this in their first bytes."""
        found = self._dir.rglob("buckets/*/objects/*")
        return sum(words in path.open("rb").read(1000) for path in found if path.is_file())

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()


def _put(program: Path, target: Path) -> None:
    """Under the path of its own, since programs look for each other beside themselves."""
    try:
        target.hardlink_to(program)
    except OSError:
        shutil.copy2(program, target)


@contextmanager
def running(programs: Path, packs: Path | None, workers: int = 2) -> Iterator[System]:
    with tempfile.TemporaryDirectory(prefix="wan-system-") as directory:
        system = System(programs, Path(directory), packs, workers)
        try:
            yield system
        except BaseException:
            for log in sorted(Path(directory, "dev", "logs").glob("worker*.log")):
                print(f"--- {log.name}\n{log.read_text()[-3000:]}", file=sys.stderr)
            raise
        finally:
            system.stop()


def ended(task: dict[str, Any]) -> dict[str, Any] | None:
    return task if task["state"] in ("succeeded", "failed", "cancelled", "expired") else None


def until(done: Any, seconds: float, what: str) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := done():
            return found
        time.sleep(0.2)
    raise SystemExit(f"{what}: nothing after {seconds} s")
