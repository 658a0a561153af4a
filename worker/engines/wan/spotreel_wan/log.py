"""The log is stderr: never parsed, kept by the worker for its error reports."""

import sys


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
