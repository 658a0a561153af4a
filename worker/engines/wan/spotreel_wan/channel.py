"""JSON lines over a socket, or over stdin and stdout for a person."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from typing import BinaryIO

from .contract import MAX_LINE, Message


class LineTooLong(Exception):
    """After it the stream cannot be trusted any more."""


class Inbox:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def lines(self) -> Iterator[bytes]:
        while line := self._stream.readline(MAX_LINE):
            if not line.endswith(b"\n"):
                if len(line) == MAX_LINE:
                    raise LineTooLong(f"a line is longer than {MAX_LINE} bytes")
                return  # The rest of a line whose writer is gone.
            yield line


class Outbox:
    """Whole lines, from any thread."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._muted = False

    def send(self, message: Message) -> None:
        line = json.dumps(message, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        if len(line) > MAX_LINE:
            raise ValueError(f"a message of {len(line)} bytes does not fit in a line")
        self.send_bytes(line)

    def send_bytes(self, line: bytes) -> None:
        with self._lock:
            if self._muted:
                return
            try:
                self._stream.write(line)
                self._stream.flush()
            except OSError:
                # The worker is gone, and with it whoever wants a render.
                os._exit(0)

    def mute(self) -> None:
        with self._lock:
            self._muted = True


def connect(stdio: bool) -> tuple[Inbox, Outbox]:
    """The channel's two directions. fd 0 becomes /dev/null: nothing else may read the conversation."""
    if stdio:
        # Whatever prints goes to stderr from here on.
        out = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        return Inbox(sys.stdin.buffer), Outbox(out)
    if not stat.S_ISSOCK(os.fstat(0).st_mode):
        raise SystemExit("fd 0 is not a socket; run by hand with --stdio")
    # dup() makes a descriptor that children do not inherit.
    connection = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return Inbox(connection.makefile("rb")), Outbox(connection.makefile("wb"))
