"""The program. What must be set before torch is loaded is set here."""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import sys
from pathlib import Path

ENVIRONMENT = {
    # One of the two settings with which cuBLAS gives equal results for equal calls.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    # Libraries must fail rather than fetch anything.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # Its warnings are about parts that are not used here.
    "TRANSFORMERS_VERBOSITY": "error",
    "DO_NOT_TRACK": "1",
    # Its threads would not survive, and one prompt needs none.
    "TOKENIZERS_PARALLELISM": "false",
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("spotreel-engine-wan", description="Wan2.2, by the engine contract on fd 0.")
    parser.add_argument("--packs", type=Path, help="directory with one pack per model")
    parser.add_argument("--trust-packs", action="store_true", help="do not check the hashes of packs")
    parser.add_argument("--profile", help="memory profile, unless the worker names another")
    parser.add_argument("--attention", default="native", help="attention backend of diffusers, such as native or flash")
    parser.add_argument("--compile", action="store_true", help="compile the transformers' blocks at first use")
    parser.add_argument("--cache", default="off", help="first-block[=THRESHOLD]: skip blocks with little effect")
    parser.add_argument(
        "--precision",
        choices=["diffusers", "authors"],
        default="diffusers",
        help="whose choice of the parts that compute in float32",
    )
    parser.add_argument(
        "--device", choices=["auto", "cuda", "cpu"], default="auto", help="auto: cuda if there is a GPU"
    )
    parser.add_argument("--threads", type=int, help="number of CPU threads of torch")
    parser.add_argument("--ffmpeg", help="path of an ffmpeg, in place of the pinned one")
    parser.add_argument("--allow-faults", action="store_true", help="obey fault directives in prompts; for tests")
    parser.add_argument("--check-tokenizer", type=Path, metavar="PACK", help="check the tokenizer of PACK and exit")
    parser.add_argument("--stdio", action="store_true", help="use stdin and stdout in place of the socket on fd 0")
    return parser.parse_args()


def answer_sigusr1() -> None:
    """A worker that lost patience sends it before anything harder: the log then says where every thread is, and whether
    the main one still runs Python."""
    faulthandler.enable()
    signal.signal(
        signal.SIGUSR1, lambda *_: print("SIGUSR1: the main thread takes signals", file=sys.stderr, flush=True)
    )
    faulthandler.register(signal.SIGUSR1, chain=True)


def main() -> None:
    options = arguments()
    os.environ.update(ENVIRONMENT)
    if options.threads:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    answer_sigusr1()
    if options.check_tokenizer:
        from .check_tokenizer import check

        sys.exit(check(options.check_tokenizer))

    from .channel import connect

    inbox, outbox = connect(options.stdio)

    # Ten seconds of imports from here on.
    import torch

    from .contract import EXIT_DEVICE, Refusal
    from .current import Current
    from .device import open_device
    from .render import Tools
    from .session import Options, Session
    from .tuning import tuning
    from .video import ffmpeg_path, ffmpeg_version

    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        device = open_device(options.device)
    except Refusal as refusal:
        # In place of `hello`.
        outbox.send(refusal.report(None))
        # Without a tidy end: CUDA's own could hang.
        os._exit(EXIT_DEVICE)
    ffmpeg = ffmpeg_path(options.ffmpeg)
    tools = Tools(outbox, Current(outbox), ffmpeg, ffmpeg_version(ffmpeg), options.allow_faults)
    speed = tuning(options.attention, options.compile, options.cache, options.precision)
    settings = Options(options.packs, options.trust_packs, options.profile, speed)
    Session(inbox, tools, device, settings).run()


if __name__ == "__main__":
    main()
