"""Faults on demand, as `sim` has them. With `--allow-faults` a prompt may hold directives such as `{{crash@3}}` (when 3
steps are done) or `{{crash@3#1}}` (the same, but only up to attempt 1, so that the next attempt succeeds)."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading

import numpy as np
import torch

from .channel import Outbox
from .contract import Refusal
from .current import Current
from .log import log

DIRECTIVE = re.compile(r"\{\{(\w+)@(\d+)(?:#(\d+))?\}\}")
# These last; they are looked up where they apply.
LASTING = ("slow", "black", "frozen", "truncated")
SLOW_SECONDS = 0.2
# More than a pipe holds, so an unread pipe would block.
NOISE_LINES = 2000


class Faults:
    """What this attempt will meet."""

    def __init__(self, prompt: str, attempt: int, current: Current, outbox: Outbox) -> None:
        found = ((name, int(step), until) for name, step, until in DIRECTIVE.findall(prompt))
        self._due = [(name, step) for name, step, until in found if not until or attempt <= int(until)]
        self._current = current
        self._outbox = outbox

    def begun(self, fault: str, done: int) -> bool:
        return any(name == fault and step <= done for name, step in self._due)

    def strike(self, done: int) -> None:
        """Triggers the faults that are due after this number of steps."""
        for name, step in self._due:
            if step == done:
                log(f"fault {name.title().replace('_', '')} at step {done}")
                self._happen(name)
        self._current.wait(SLOW_SECONDS if self.begun("slow", done) else 0)

    def spoil(self, frames: np.ndarray, first: np.ndarray, steps: int) -> np.ndarray:
        if self.begun("black", steps):
            return np.zeros_like(frames)
        if self.begun("frozen", steps):
            return np.broadcast_to(first, frames.shape)
        return frames

    def _happen(self, name: str) -> None:
        match name:
            case "crash":
                os.abort()
            case "hang":
                self._outbox.mute()
                threading.Event().wait()
            case "oom":
                raise torch.OutOfMemoryError("injected by the prompt")
            case "device":
                raise RuntimeError("CUDA error: injected by the prompt")
            case "garbage":
                self._outbox.send_bytes(b"\x00\xff{not json\n")
            case "noise":
                _noise()
            case "bad_ckpt":
                self._current.spoil_checkpoint()
            case "kill_worker":
                # Never init: an engine whose worker is gone has nobody to kill.
                if os.getppid() > 1:
                    os.kill(os.getppid(), signal.SIGKILL)
            case "retryable" | "invalid":
                raise Refusal(name, "injected", "injected by the prompt")


def _noise() -> None:
    line = '{"type":"finished"} noise ' * 8
    for _ in range(NOISE_LINES):
        print(line, flush=True)
        log(line)
    sys.stdout.write("no newline")
    sys.stdout.flush()
