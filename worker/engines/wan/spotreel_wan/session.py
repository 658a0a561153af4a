"""The conversation: one thread listens and answers at once, the main thread renders."""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from . import __version__, checkpoint
from .channel import Inbox, LineTooLong
from .contract import (
    EXIT_DEVICE,
    EXIT_NO_COMMON_VERSION,
    FEATURE_FAST,
    FEATURE_FAULTS,
    FEATURE_LORAS,
    PROTO,
    Load,
    Message,
    Refusal,
    Request,
    common_version,
    parse_load,
    parse_request,
)
from .device import Device, machine_word
from .failure import refusal
from .log import log
from .models import MODELS
from .pack import open_pack, read_index
from .profile import PROFILES, choose
from .recipe import MAX_STEPS
from .render import Job, Tools
from .shelf import Shelf
from .tuning import Tuning
from .weights import blueprint, weight_path


@dataclass(frozen=True)
class Options:
    """How the engine was started."""

    packs_dir: Path | None
    trust_packs: bool
    profile: str | None
    tuning: Tuning = Tuning()


class Session:
    def __init__(self, inbox: Inbox, tools: Tools, device: Device, options: Options) -> None:
        self._inbox = inbox
        self._tools = tools
        self._device = device
        self._options = options
        self._work: queue.SimpleQueue[Load | Request | None] = queue.SimpleQueue()
        self._shelf: Shelf | None = None

    def run(self) -> None:
        """Until the worker is gone or says to stop; the process ends in the listener."""
        self._tools.outbox.send(self._hello())
        threading.Thread(target=self._listen, name="listener", daemon=True).start()
        while True:
            item = self._work.get()
            if isinstance(item, Request):
                self._render(item)
            elif isinstance(item, Load):
                self._load(item)
            else:
                self._unload()

    def _hello(self) -> Message:
        features = ["checkpoint_now", "exact_resume", "poster", "preview", FEATURE_LORAS, *self._fast()]
        return {
            "type": "hello",
            "proto": PROTO,
            "name": "wan",
            "version": __version__,
            "models": list(MODELS),
            "profiles": list(PROFILES),
            "device": self._device.name,
            "limits": {
                "max_pixels": max(model.max_pixels for model in MODELS.values()),
                "max_frames": max(model.max_frames for model in MODELS.values()),
                "max_steps": MAX_STEPS,
            },
            "features": features + ([FEATURE_FAULTS] if self._tools.allow_faults else []),
            "checkpoint_format": checkpoint.FORMAT,
            "embeddings": machine_word(self._device),
        }

    def _fast(self) -> list[str]:
        """Of the packs that are here already."""
        having = [name for name in MODELS if self._options.packs_dir and _is_fast(self._options.packs_dir / name)]
        return [FEATURE_FAST] * (having == list(MODELS)) + [f"{FEATURE_FAST}:{name}" for name in having]

    def _load(self, load: Load) -> None:
        began = time.monotonic()
        self._unload()
        try:
            model = MODELS.get(load.model)
            if model is None:
                raise Refusal("model", "unknown_model", f"there is no model {load.model!r} here")
            self._tools.outbox.send({"type": "phase", "name": "load"})
            packs_dir = load.packs_dir or self._options.packs_dir
            # An expert is the only part that can be waited for later.
            arriving = load.arriving & {weight_path(expert) for expert in model.experts}
            pack = open_pack(packs_dir, model, trust=self._options.trust_packs or load.verified, arriving=arriving)
            plan = blueprint(pack, model, arriving)
            profile = choose(pack, plan, load.profile or self._options.profile, self._device)
            self._shelf = Shelf(pack, plan, profile, self._device, self._options.tuning, arriving)
        except Exception as error:  # The one place where a load's errors end.
            reason = refusal(error)
            self._unload()
            self._tools.outbox.send(reason.report(None))
            if reason.kind == "device":
                os._exit(EXIT_DEVICE)
            return
        self._tools.outbox.send(
            {
                "type": "ready",
                "model": model.name,
                "profile": profile.name,
                "load_s": time.monotonic() - began,
                "vram": self._device.memory_used(),
            }
        )

    def _unload(self) -> None:
        if self._shelf is not None:
            self._shelf.clear()
            self._shelf = None
            self._device.give_back()

    def _render(self, request: Request) -> None:
        if self._shelf is None or self._shelf.model.name != request.task.model:
            reason = Refusal("protocol", "not_loaded", "the task's model is not loaded")
            self._tools.current.end(reason.report(request.id))
            return
        Job(request, self._shelf, self._tools).run()

    def _listen(self) -> None:
        """Ends the process when the channel does: a renderer without a worker only burns money."""
        try:
            for line in self._inbox.lines():
                try:
                    message = json.loads(line)
                    self._hear(message, message["type"])
                except (ValueError, KeyError, TypeError, IndexError) as error:
                    self._complain("bad_message", f"not a message of the contract: {error!r}")
        except LineTooLong as error:
            self._complain("bad_line", str(error))
            os._exit(1)
        except OSError as error:
            log(f"the channel broke: {error}")
        os._exit(0)

    def _hear(self, message: Message, kind: str) -> None:
        current = self._tools.current
        match kind:
            case "hello":
                if common_version(message["proto"]) is None:
                    log(f"no common version: here {PROTO}, there {message['proto']}")
                    os._exit(EXIT_NO_COMMON_VERSION)
            case "load":
                self._work.put(parse_load(message))
            case "unload":
                self._work.put(None)
            case "render":
                request = parse_request(message)
                # Before it is handed over, so that a cancel right behind it finds it.
                if current.expect(request):
                    self._work.put(request)
                else:
                    self._complain("busy", "one render at a time")
            case "checkpoint_now":
                current.checkpoint_now(message["id"])
            case "cancel":
                current.cancel(message["id"], str(message["reason"]))
            case "ping":
                self._tools.outbox.send({"type": "pong", "n": message["n"]})
            case "shutdown":
                self._tools.outbox.send({"type": "bye"})
                os._exit(0)
            case _:
                self._complain("unknown_message", "a message of a type unknown here")

    def _complain(self, code: str, message: str) -> None:
        self._tools.outbox.send(Refusal("protocol", code, message).report(None))


def _is_fast(directory: Path) -> bool:
    try:
        return read_index(directory).fast is not None
    except Refusal:
        # A load will say why.
        return False
