"""The accelerator: which one, how it is made deterministic, and what makes two of them alike."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from functools import cache
from typing import Any

import diffusers
import torch
import transformers

# Raise it when the same prompt is encoded differently: what was encoded before is then passed over.
TEXT_VERSION = 2
# What may differ between the machine that wrote a checkpoint and the one that goes on; the result is then close, not
# equal. Everything else is in the task's hash.
EquivalenceClass = dict[str, Any]


@dataclass(frozen=True)
class Device:
    torch: torch.device
    name: str
    # Bytes; None where memory is no concern.
    memory: int | None

    @property
    def is_cuda(self) -> bool:
        return self.torch.type == "cuda"

    def memory_used(self) -> int | None:
        return torch.cuda.memory_allocated() if self.is_cuda else None

    def memory_peak(self) -> int | None:
        return torch.cuda.max_memory_allocated() if self.is_cuda else None

    def begin_render(self) -> None:
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats()

    def give_back(self) -> None:
        if self.is_cuda:
            torch.cuda.empty_cache()


def open_device(wanted: str) -> Device:
    """`auto` is CUDA where there is one."""
    make_deterministic()
    kind = wanted if wanted != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cpu":
        return Device(torch.device("cpu"), "cpu", None)
    properties = torch.cuda.get_device_properties(0)
    return Device(torch.device("cuda", 0), properties.name, properties.total_memory)


def make_deterministic() -> None:
    """cuBLAS reads its own part of it, CUBLAS_WORKSPACE_CONFIG, from the environment: `__main__` sets it."""
    torch.use_deterministic_algorithms(True)
    # It would fill every new tensor with NaN first.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False
    # cuDNN's attention picks its kernels by heuristics that change with its version.
    torch.backends.cuda.enable_cudnn_sdp(False)


def machine_class(device: Device) -> EquivalenceClass:
    """Two machines of equal classes compute equal bits, if they are asked for the same."""
    made_with = {
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }
    if not device.is_cuda:
        threads = torch.get_num_threads()
        return made_with | {"device": f"cpu {torch.backends.cpu.get_cpu_capability()}", "threads": threads}
    major, minor = torch.cuda.get_device_capability()
    return made_with | {
        "device": device.name,
        "capability": f"{major}.{minor}",
        "driver": driver_version(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


def machine_word(device: Device) -> str:
    """The class as a short word; with what this engine makes of a text."""
    made = machine_class(device) | {"text": TEXT_VERSION}
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]


@cache
def driver_version() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
