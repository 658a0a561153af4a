"""What an exception means for the queue."""

from __future__ import annotations

import errno
import traceback

import torch

from .contract import Refusal
from .log import log

# After one of these every further call fails too: the process has to go. torch has a type for most of them, but not for
# those that come from cuDNN and cuBLAS.
DEVICE_WORDS = ("CUDA error", "CUDA driver error", "cuDNN error", "CUDNN_STATUS", "CUBLAS_STATUS", "NVML error")
HOST_MEMORY_WORDS = ("DefaultCPUAllocator", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    # cuBLAS says so when it cannot get its workspace.
    unable = "CUBLAS_STATUS_ALLOC_FAILED" in text or any(words in text for words in HOST_MEMORY_WORDS)
    return isinstance(error, RuntimeError) and unable


def refusal(error: Exception) -> Refusal:
    if isinstance(error, Refusal):
        return error
    log("".join(traceback.format_exception(error)))
    text = f"{type(error).__name__}: {error}".split("\n", 1)[0]
    if is_out_of_memory(error):
        return Refusal("oom", "out_of_memory", text)
    if isinstance(error, torch.AcceleratorError) or any(words in str(error) for words in DEVICE_WORDS):
        return Refusal("device", "cuda", text, restart=True)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return Refusal("retryable", "disk_full", text)
    return Refusal("internal", "bug", text)
