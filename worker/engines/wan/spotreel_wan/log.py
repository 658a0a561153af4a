"""The log is stderr: never parsed, kept by the worker for its error reports."""

import contextlib
import sys


def log(line: str) -> None:
    # When the worker is gone nobody reads it, and the thread that ends this process must get to its end.
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
