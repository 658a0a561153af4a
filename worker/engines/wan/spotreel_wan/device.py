"""The accelerator: which one, how it is made deterministic, and what makes two of them alike."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from .contract import Refusal

# The kernel's list of devices on the PCI bus. Containers see that of their machine.
PCI = Path("/sys/bus/pci/devices")
NVIDIA = "0x10de"
# PCI's class of display controllers, in its first byte.
DISPLAY = "0x03"
# Of this container: versions 2 and 1.
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
# Sides of the matrices of the check: small enough to cost nothing, large enough for tensor cores.
CHECKED = 64
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
    # The same of the host, where the weights lie elsewhere.
    host_memory: int | None = None

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
    """`auto` is CUDA where the machine has a GPU: on its CPU a render would take weeks, and nobody would be told."""
    make_deterministic()
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available() and not has_gpu()):
        return Device(torch.device("cpu"), "cpu", None)
    try:
        # Unlike `is_available`, this says why.
        torch.cuda.init()
        properties = torch.cuda.get_device_properties(0)
        device = Device(torch.device("cuda", 0), properties.name, properties.total_memory, host_memory())
        check(device.torch)
    except Refusal:
        raise
    except Exception as error:  # Whatever keeps the GPU from being used.
        text = f"{type(error).__name__}: {error}".split("\n", 1)[0]
        message = f"the GPU cannot be opened: {text}; --device cpu renders without it"
        raise Refusal("device", "unusable", message, restart=True) from error
    return device


def has_gpu() -> bool:
    """Whether there is a GPU of NVIDIA's in this machine, whatever its driver or this container make of it."""

    def said(device: Path, name: str) -> str:
        try:
            return (device / name).read_text().strip()
        except OSError:
            return ""

    devices = PCI.iterdir() if PCI.is_dir() else ()
    return any(said(device, "vendor") == NVIDIA and said(device, "class").startswith(DISPLAY) for device in devices)


def host_memory() -> int:
    """What this process may use of the host's memory: all of it, or what its container is given."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [total]
    for path in CGROUP_LIMITS:
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):
            pass  # Not this version of cgroups; or "max", which is no limit.
    return min(limits)


def check(device: torch.device) -> None:
    """One small kernel of each library. A driver that is too old, a card of another generation than torch was built
    for, or one that computes wrongly shows here, before a task is taken."""
    ones = torch.ones(CHECKED, CHECKED, dtype=torch.bfloat16, device=device)
    product = (ones @ ones).cpu()
    volume = torch.ones(1, 1, 4, 4, 4, device=device)
    sums = torch.nn.functional.conv3d(volume, torch.ones(1, 1, 3, 3, 3, device=device)).cpu()
    if not (product == CHECKED).all() or not (sums == 27).all():
        raise Refusal("device", "computes_wrongly", "the GPU computes wrongly: 1 times 1 is not 1 there", restart=True)


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
