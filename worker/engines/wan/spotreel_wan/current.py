"""The render in progress, as both threads see it: the listener cancels and takes checkpoints, the renderer moves on."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path

from . import checkpoint
from .channel import Outbox
from .checkpoint import Maker, Snapshot
from .contract import Message, Refusal, Request
from .log import log


@dataclass
class Running:
    id: str
    work_dir: Path
    maker: Maker | None = None
    # The last whole step.
    snapshot: Snapshot | None = None
    cancelled: str | None = None
    # Asked for before there was anything to write.
    checkpoint_due: bool = False
    # Announce the next checkpoint with a wrong hash.
    spoil: bool = False


class Current:
    """At most one render. Its messages are sent under the lock, so nothing is said about it after its end."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._changed = threading.Condition()
        self._running: Running | None = None

    def expect(self, request: Request) -> bool:
        """Takes the place; false when a render is in it."""
        with self._changed:
            free = self._running is None
            if free:
                self._running = Running(request.id, request.work_dir)
            return free

    def begin(self, maker: Maker) -> None:
        """From here on checkpoints can be made."""
        with self._changed:
            if self._running:
                self._running.maker = maker

    def advance(self, snapshot: Snapshot) -> None:
        """A whole step is done."""
        with self._changed:
            if self._running:
                self._running.snapshot = snapshot
                if self._running.checkpoint_due:
                    self._checkpoint(self._running)

    def checkpoint(self) -> None:
        with self._changed:
            if self._running:
                self._checkpoint(self._running)

    def checkpoint_now(self, render_id: str) -> None:
        """The listener's way in: another id means that the render has ended, which was the answer."""
        with self._changed:
            if self._running and self._running.id == render_id:
                self._checkpoint(self._running)

    def spoil_checkpoint(self) -> None:
        with self._changed:
            if self._running:
                self._running.spoil = True

    def cancel(self, render_id: str, reason: str) -> None:
        with self._changed:
            if self._running and self._running.id == render_id:
                self._running.cancelled = reason
                self._changed.notify_all()

    def check(self) -> None:
        """Raises once the worker asked to stop."""
        with self._changed:
            self._check()

    def wait(self, seconds: float) -> None:
        """Sleeps, but wakes up for a cancel."""
        with self._changed:
            self._changed.wait_for(lambda: self._running is None or self._running.cancelled is not None, seconds)
            self._check()

    def end(self, message: Message) -> None:
        """The last word about the render."""
        with self._changed:
            self._running = None
            self._outbox.send(message)

    def _check(self) -> None:
        if self._running and self._running.cancelled is not None:
            raise Refusal("cancelled", "cancelled", self._running.cancelled)

    def _checkpoint(self, running: Running) -> None:
        if running.maker is None or running.snapshot is None:
            running.checkpoint_due = True
            return
        running.checkpoint_due = False
        snapshot = running.snapshot
        path = running.work_dir / f"step-{snapshot.next_step:04}.ckpt"
        data = running.maker.encode(snapshot)
        try:
            checkpoint.write(path, data)
        except OSError as error:
            # The render can go on without; the worker sees no checkpoint and draws its own conclusions.
            log(f"cannot write {path}: {error.strerror}")
            return
        digest = hashlib.sha256(data).hexdigest()
        if running.spoil:
            running.spoil, digest = False, "0" * len(digest)
        self._outbox.send(
            {
                "type": "checkpoint",
                "id": running.id,
                "path": str(path),
                "bytes": len(data),
                "sha256": digest,
                "next_step": snapshot.next_step,
                "phase": snapshot.phase,
            }
        )
