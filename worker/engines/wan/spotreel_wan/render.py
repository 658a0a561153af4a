"""One render, from the request to its last word."""

from __future__ import annotations

import gc
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image as Pictures

from . import decode, embeddings, image, preview, recipe, result
from .channel import Outbox
from .checkpoint import Maker, Snapshot
from .contract import EXIT_DEVICE, Lora, Message, Refusal, Request
from .current import Current
from .denoise import Denoiser
from .device import machine_class
from .embeddings import Text
from .failure import is_out_of_memory, refusal
from .faults import Faults
from .finite import check_finite
from .log import log
from .pack import hash_file
from .profile import STORED, check_fit
from .scheduler import timesteps
from .shelf import Shelf
from .video import VideoWriter

POSTER_QUALITY = 90
EMBEDDINGS = "text.embeds"
# A file that is awaited is looked for this often.
LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Tools:
    """What every render uses."""

    outbox: Outbox
    current: Current
    ffmpeg: str
    ffmpeg_version: str
    allow_faults: bool


class Job:
    def __init__(self, request: Request, shelf: Shelf, tools: Tools) -> None:
        self._request = request
        self._task = request.task
        self._shelf = shelf
        self._tools = tools
        self._faults = Faults(
            request.task.prompt if tools.allow_faults else "", request.attempt, tools.current, tools.outbox
        )
        self._timings: dict[str, float] = {}
        self._step_seconds: list[float] = []
        self._tiled = shelf.profile.tiles

    def run(self) -> None:
        """Ends with exactly one `finished` or `error`."""
        try:
            last_word, broken = self._render(), False
        except Exception as error:  # The one place where a render's errors end.
            reason = refusal(error)
            last_word, broken = reason.report(self._request.id), reason.kind == "device"
        self._tools.current.end(last_word)
        if broken:
            # Without a tidy end: CUDA's own would hang.
            os._exit(EXIT_DEVICE)
        # After the handler, whose traceback holds what the render had.
        gc.collect()
        self._shelf.device.give_back()

    def _render(self) -> Message:
        shelf, current = self._shelf, self._tools.current
        model = recipe.check(self._task)
        made = recipe.make(self._task, model, shelf.pack)
        check_fit(shelf.profile, shelf.blueprint, self._task, shelf.device)
        picture = None
        if self._task.image is not None:
            data, image_sha256 = image.read(self._task.image)
            made = replace(made, image_sha256=image_sha256)
            picture = image.prepare(data, self._task.width, self._task.height)
        for lora in self._task.loras:
            check_lora(lora)
        denoiser = Denoiser(shelf, made, picture)
        tokens = denoiser.check_prompts()
        schedule = timesteps(made.solver, shelf.scheduler_config, self._task.steps, self._task.shift)
        maker = Maker(made, schedule, self._class(made))
        start, resumed = self._resume(maker)
        self._send("accepted", start_step=0 if start is None else start.next_step, resume=resumed)
        shelf.device.begin_render()
        current.begin(maker)
        current.check()
        if self._request.preview_every > 0:
            # While the experts do not compute: it takes memory.
            shelf.preview_colours()
        shelf.wait = self._await
        shelf.forget_steps()
        if start is None:
            start = denoiser.start(self._text(made, denoiser))
        if picture is not None and start.condition is None:
            self._phase("encode_image")
        current.advance(start)
        with self._timed("denoise"):
            latents = self._denoise(denoiser, start, [model.expert(t) for t in maker.timesteps])
        with self._timed("decode"):
            video, poster = self._decode(latents)
        meta = result.metadata(made, maker, shelf) | {
            "tiled": self._tiled,
            "prompt_tokens": tokens,
            "start_step": start.next_step,
            "resume": resumed,
            "step_seconds": self._step_seconds,
        }
        return {"id": self._request.id} | result.finished(meta, video, poster, self._timings)

    def _class(self, made: recipe.Recipe) -> dict[str, Any]:
        """Two renders of one task with equal classes give equal bytes."""
        shelf = self._shelf
        return (
            machine_class(shelf.device)
            | shelf.tuning.words(self._request.every_steps)
            | {"compute": shelf.pack.compute, "storage": STORED[shelf.profile.storage], "solver": made.solver}
            | {"loras" if made.fast is None else made.fast.kind: made.distilled}
            | {"ffmpeg": self._tools.ffmpeg_version}
        )

    def _text(self, made: recipe.Recipe, denoiser: Denoiser) -> Text:
        """As it was encoded before, or else encoded here and given away."""
        shelf = self._shelf
        width = shelf.blueprint.parts["text_encoder"].config.d_model
        encoding = embeddings.encoding(made, shelf.pack, shelf.device, width, shelf.blueprint.dtype)
        given = self._request.embeddings
        if given is not None and (text := encoding.read(given)) is not None:
            return text
        self._phase("encode_text")
        with self._timed("encode_text"):
            text = denoiser.encode_text()
        for tensor in (text.prompt, text.negative):
            check_finite(tensor, "the encoded text")
        try:
            self._send("embeddings", **encoding.write(text, self._request.work_dir / EMBEDDINGS))
        except OSError as error:
            log(f"the encoded text is not kept: {error}")
        return text

    def _await(self, path: Path) -> None:
        """Loading goes on where it was left when the model was loaded."""
        self._phase("load")
        while not path.exists():
            self._tools.current.wait(LOOK_SECONDS)
        self._phase("denoise")

    def _resume(self, maker: Maker) -> tuple[Snapshot | None, Literal["none", "exact", "approximate"]]:
        if self._request.resume is None:
            return None, "none"
        return maker.read(self._request.resume)

    def _denoise(self, denoiser: Denoiser, start: Snapshot, experts: list[str | None]) -> torch.Tensor:
        request, current, total = self._request, self._tools.current, self._task.steps
        last_checkpoint: float | None = None
        newest = start

        def on_step(snapshot: Snapshot, seconds: float) -> None:
            nonlocal last_checkpoint, newest
            snapshot.check_finite()
            newest, done = snapshot, snapshot.next_step
            self._step_seconds.append(round(seconds, 4))
            # Before the other expert is loaded is a good moment to lose nothing.
            due = request.every_steps > 0 and done < total
            due = due and (done % request.every_steps == 0 or experts[done] != experts[done - 1])
            # What a cache keeps of earlier steps is in no checkpoint: a render can only be resumed where all of them
            # begin anew.
            if due:
                self._shelf.forget_steps()
            if done < total and (due or self._shelf.tuning.cache is None):
                current.advance(snapshot)
            median = sorted(self._step_seconds)[len(self._step_seconds) // 2]
            self._send(
                "step",
                done=done,
                total=total,
                expert=experts[done - 1],
                seconds=seconds,
                eta_s=median * (total - done),
                vram_peak=self._shelf.device.memory_peak(),
            )
            if done == total:
                return
            if request.preview_every > 0 and done % request.preview_every == 0:
                self._preview(snapshot)
            now = time.monotonic()
            if due and (last_checkpoint is None or now - last_checkpoint >= request.min_interval_s):
                current.checkpoint()
                last_checkpoint = now
            self._faults.strike(done)

        self._phase("denoise")
        if start.phase == "denoise":
            self._faults.strike(start.next_step)
        latents = denoiser.run(start, on_step)
        if start.phase == "denoise":
            # What is decoded, not what the last step left: an image model puts the first frame back in between.
            done = replace(newest, phase="decode", latents=latents.detach().to("cpu", copy=True))
            done.check_finite()
            current.advance(done)
            if request.every_steps > 0:
                # Always worth it: decoding may fail after hours of denoising.
                current.checkpoint()
        self._faults.strike(total)
        return latents

    def _preview(self, snapshot: Snapshot) -> None:
        path = self._request.work_dir / f"preview-{snapshot.next_step:04}.jpg"
        latents = snapshot.latents if snapshot.clean is None else snapshot.clean
        try:
            preview.picture(latents, self._shelf.preview_colours()).save(path, quality=preview.QUALITY)
        except OSError as error:
            log(f"a preview cannot be written: {error}")
            return
        self._send("preview", path=str(path))

    def _decode(self, latents: torch.Tensor) -> tuple[Path, Path]:
        if not self._shelf.profile.resident:
            self._shelf.clear()
        self._phase("decode")
        try:
            return self._decode_once(latents)
        except Exception as error:
            if self._tiled or not is_out_of_memory(error):
                raise
            log(f"memory ran out while decoding; again, in tiles: {error}")
        # Outside of the handler, whose traceback would keep the tensors that did not fit.
        self._shelf.clear()
        self._tiled = True
        return self._decode_once(latents)

    def _decode_once(self, latents: torch.Tensor) -> tuple[Path, Path]:
        task, tools = self._task, self._tools
        path, poster = self._request.out_dir / "video.mp4", self._request.out_dir / "poster.jpg"
        # Some countries ask for such a mark.
        comment = f"AI-generated with Wan2.2 {task.model}"
        with VideoWriter(tools.ffmpeg, path, (task.width, task.height), task.fps, comment) as writer:
            first: np.ndarray | None = None
            for frames in decode.frames(self._shelf.vae, latents, tiled=self._tiled):
                tools.current.check()
                if first is None:
                    first = frames[:1]
                    Pictures.fromarray(frames[0]).save(poster, quality=POSTER_QUALITY)
                writer.write(self._faults.spoil(frames, first, task.steps))
            self._phase("mux")
            writer.finish()
        if self._faults.begun("truncated", task.steps):
            os.truncate(path, path.stat().st_size // 2)
        return path, poster

    def _send(self, kind: str, **fields: Any) -> None:
        self._tools.outbox.send({"type": kind, "id": self._request.id, **fields})

    def _phase(self, name: str) -> None:
        self._send("phase", name=name)

    def _timed(self, name: str) -> _Timer:
        return _Timer(self._timings, name)


def check_lora(lora: Lora) -> None:
    """The worker fetched the file, so a wrong one says nothing about the task."""
    if not lora.path.is_file() or hash_file(lora.path) != lora.sha256:
        raise Refusal("retryable", "lora_unreadable", f"the file of the LoRA {lora.name!r} is not what it should be")


class _Timer:
    def __init__(self, timings: dict[str, float], name: str) -> None:
        self._timings = timings
        self._name = name

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._timings[self._name] = time.monotonic() - self._began
