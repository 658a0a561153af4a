"""An engine in a process of its own, and the worker's side of the conversation.

The process is forked rather than started, which spares ten seconds of imports each; all that it loads it loads itself.
The suite of `worker/tests/conformance` starts real ones.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from spotreel_wan.channel import Inbox, Outbox
from spotreel_wan.current import Current
from spotreel_wan.device import open_device
from spotreel_wan.render import Tools
from spotreel_wan.session import Options, Session
from spotreel_wan.tuning import Tuning
from spotreel_wan.video import ffmpeg_path, ffmpeg_version

# Far more than anything here takes: a test that waits so long has failed.
PATIENCE = 120
STEPS = 6
IMAGE_SIZE = (128, 96)
FFMPEG = ffmpeg_path(None)
FFMPEG_VERSION = ffmpeg_version(FFMPEG)

Message = dict[str, Any]


def no_network(event: str, _arguments: tuple) -> None:
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind"):
        raise RuntimeError(f"the engine reached for the network: {event}")


class Engine:
    """`hook` runs in the new process before anything else; `kill_at` says after which message it kills itself."""

    def __init__(
        self,
        packs: Path,
        *,
        faults: bool = False,
        profile: str | None = None,
        tuning: Tuning | None = None,
        hook: Callable[[], None] = lambda: None,
        kill_at: Callable[[Message], bool] = lambda _: False,
    ) -> None:
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                ours.close()
                # Makes torch's pool anew: a fork has no threads of the old one.
                torch.set_num_threads(1)
                sys.addaudithook(no_network)
                hook()
                outbox = Outbox(_Killing(theirs, kill_at))
                tools = Tools(outbox, Current(outbox), FFMPEG, FFMPEG_VERSION, faults)
                settings = Options(packs, False, profile, tuning or Tuning())
                Session(Inbox(theirs.makefile("rb")), tools, open_device("cpu"), settings).run()
            finally:
                os._exit(99)
        theirs.close()
        ours.settimeout(PATIENCE)
        self._socket = ours
        self._lines = ours.makefile("rb")
        self.hello = self.hear()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def say(self, kind: str, **fields: Any) -> None:
        self._socket.sendall(json.dumps({"type": kind, **fields}).encode() + b"\n")

    def hear(self) -> Message | None:
        """None when the engine has closed its end."""
        try:
            line = self._lines.readline()
        except ConnectionResetError:
            return None
        return json.loads(line) if line else None

    def until(self, *kinds: str) -> list[Message]:
        """All up to the first of these; up to the end if none comes."""
        heard = []
        while message := self.hear():
            heard.append(message)
            if message["type"] in kinds:
                break
        return heard

    def load(self, model: str, **fields: Any) -> Message:
        self.say("load", model=model, **fields)
        return self.until("ready", "error")[-1]

    def render(self, request: Message) -> list[Message]:
        self.say("render", **request)
        return self.until("finished", "error")

    def exit_status(self) -> int:
        """Negative: the signal."""
        ended, _, _ = select.select([os.pidfd_open(self.pid)], [], [], PATIENCE)
        assert ended, "the engine has answered and goes on"
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


class _Killing:
    """The engine's stream; after a certain message comes SIGKILL, as from outside."""

    def __init__(self, connection: socket.socket, kill_at: Callable[[Message], bool]) -> None:
        self._connection = connection
        self._kill_at = kill_at

    def write(self, line: bytes) -> None:
        self._connection.sendall(line)
        with contextlib.suppress(ValueError):
            if self._kill_at(json.loads(line)):
                os.kill(os.getpid(), signal.SIGKILL)

    def flush(self) -> None:
        pass


def request(
    directory: Path,
    model: str,
    *,
    resume: Message | None = None,
    embeddings: Message | None = None,
    every: int = 1,
    preview: int | None = None,
    **task: Any,
) -> Message:
    """A small task; `directory` is made."""
    work, out = directory / "work", directory / "out"
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    two = model != "ti2v-5B"
    usual = {
        "model": model,
        "prompt": "a red fox in the snow",
        "negative_prompt": None,
        "width": IMAGE_SIZE[0],
        "height": IMAGE_SIZE[1],
        "frames": 9,
        "fps": 16 if two else 24,
        "steps": STEPS,
        "guidance": 4.0 if two else 5.0,
        "guidance_2": 3.0 if two else None,
        "shift": 12.0 if model == "t2v-A14B" else 5.0,
        "seed": 7,
        "image": None,
    }
    return {
        "id": "task-1",
        "attempt": 1,
        "task": usual | task,
        "work_dir": str(work),
        "out_dir": str(out),
        "resume": hashed(resume),
        "embeddings": hashed(embeddings),
        "checkpoint": {"every_steps": every, "min_interval_s": 0.0},
        "preview": None if preview is None else {"every_steps": preview},
    }


def hashed(file: Message | None) -> Message | None:
    """As it was said, or as a test says it."""
    return None if file is None else {"path": file["path"], "sha256": file["sha256"]}


def of(kind: str, heard: list[Message]) -> list[Message]:
    return [message for message in heard if message["type"] == kind]
