"""The kernel reads the next expert's file while the one before it computes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from .log import log


def read_ahead(path: Path) -> threading.Thread:
    """Returns at once. It is advice: without it the file is only read later."""
    thread = threading.Thread(target=_advise, args=(path,), name="read-ahead", daemon=True)
    thread.start()
    return thread


def _advise(path: Path) -> None:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            # What does not fit beside everything else would only push out its own beginning.
            os.posix_fadvise(file.fileno(), 0, min(size, _available() // 2), os.POSIX_FADV_WILLNEED)
    except OSError as error:
        log(f"{path} is not read ahead: {error.strerror}")


def _available() -> int:
    """Memory that the kernel could give away without swapping, in bytes."""
    with Path("/proc/meminfo").open() as lines:
        kilobytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), "0")
    return int(kilobytes) << 10
