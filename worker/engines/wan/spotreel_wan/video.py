"""Frames into a file by ffmpeg: H.264 High, BT.709 tags, the index in front, the same bytes from the same frames."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import TracebackType

import numpy as np

from .contract import Refusal

# Another number of threads changes the file's bytes.
THREADS = 4
CRF = 18
# With a whole video encoded, what is left is moving the index to the front.
FINISH_SECONDS = 600


class VideoWriter:
    """Writes `<name>.part`; only `finish` gives the file its name."""

    def __init__(self, ffmpeg: str, path: Path, size: tuple[int, int], fps: int, comment: str) -> None:
        self._path = path
        self._part = path.with_suffix(".part")
        self._process = subprocess.Popen(
            [ffmpeg, *_arguments(size, fps, comment), str(self._part)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        self._frames = 0

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdin:
            try:
                self._process.stdin.close()
            except OSError:
                pass  # What it still held has nobody to go to.
        self._part.unlink(missing_ok=True)

    def write(self, frames: np.ndarray) -> None:
        """uint8, (frames, height, width, 3)."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(frames).data)
        except OSError as error:
            raise self._failed() from error
        self._frames += len(frames)

    def finish(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            status = self._process.wait(FINISH_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self._failed() from error
        if status != 0:
            raise self._failed()
        with self._part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(self._part, self._path)

    def _failed(self) -> Refusal:
        # A full disk or a broken installation: another machine may do better. Its words are in the log.
        message = f"ffmpeg ended with {self._process.poll()} after {self._frames} frames"
        return Refusal("retryable", "encoder", message)


def _arguments(size: tuple[int, int], fps: int, comment: str) -> list[str]:
    width, height = size
    primaries = "setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv"
    return [
        *("-hide_banner", "-loglevel", "error", "-y"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:0"),
        *("-vf", f"scale=out_color_matrix=bt709:out_range=tv,format=yuv420p,{primaries}"),
        *("-c:v", "libx264", "-preset", "medium", "-crf", str(CRF), "-profile:v", "high"),
        *("-g", str(2 * fps), "-bf", "2", "-threads", str(THREADS)),
        *("-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1", "-metadata", f"comment={comment}"),
        *("-movflags", "+faststart", "-f", "mp4"),
    ]


def ffmpeg_path(wanted: str | None) -> str:
    """The one that is pinned with the other requirements, unless another is named."""
    if wanted is not None:
        return wanted
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


def ffmpeg_version(path: str) -> str:
    try:
        out = subprocess.run([path, "-version"], check=True, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise SystemExit(f"ffmpeg cannot be run: {error}") from error
    return out.split("\n", 1)[0].removeprefix("ffmpeg version ").split(" ")[0]
