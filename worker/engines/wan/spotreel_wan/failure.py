"""What an exception means for the queue."""

from __future__ import annotations

import errno
import traceback

import torch
from safetensors import SafetensorError

from .contract import Refusal
from .log import log

# Memory, the GPU's or the host's, has no type of its own but in torch's allocator. The words, and who says them:
OUT_OF_MEMORY = (
    "out of memory",  # the CUDA runtime and driver, Triton; torch's AcceleratorError holds the same text
    "CUDA_ERROR_OUT_OF_MEMORY",  # the driver's name for it
    "cudaErrorMemoryAllocation",  # the runtime's
    "CUBLAS_STATUS_ALLOC_FAILED",  # cuBLAS, for its workspace
    "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate",  # cuBLAS, for its handle
    "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasLtCreate",
    "CUDNN_STATUS_ALLOC_FAILED",  # cuDNN up to 8
    "ALLOCATION_FAILED",  # cuDNN 9: CUDNN_STATUS_INTERNAL_ERROR_{HOST,DEVICE}_ALLOCATION_FAILED
    "unable to find an engine to execute this computation",  # torch, when no convolution's workspace could be had
    "NVML_SUCCESS == r INTERNAL ASSERT",  # torch's allocator, which asks NVML why memory ran out
    "DefaultCPUAllocator",  # torch on the host
    "can't allocate memory",
    "Cannot allocate memory",  # the kernel's words, from mmap
)
# After one of these every further call fails too: the process has to go. torch has a type for most of them, but not for
# those that come from elsewhere.
DEVICE = (
    "CUDA error",  # the CUDA runtime
    "CUDA driver error",
    "CUDA unknown error",  # torch, when it opens the GPU
    "No CUDA GPUs are available",
    "cudaGetDeviceCount()",  # such as "Error 802: system not yet initialized"
    "Found no NVIDIA driver",
    "Triton Error [CUDA]",
    "cuDNN error",
    "CUDNN_STATUS",
    "CUBLAS_STATUS",
    "NVML error",
    "illegal memory access",  # Xid 31
    "unspecified launch failure",
    "device-side assert",
    "GPU is lost",  # NVML: it has fallen off the bus, Xid 79
)


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, (RuntimeError, OSError, SafetensorError)) and _says(error, OUT_OF_MEMORY)


def refusal(error: Exception) -> Refusal:
    if isinstance(error, Refusal):
        return error
    log("".join(traceback.format_exception(error)))
    text = f"{type(error).__name__}: {error}".split("\n", 1)[0]
    if is_out_of_memory(error):
        return Refusal("oom", "out_of_memory", text)
    if isinstance(error, torch.AcceleratorError) or _says(error, DEVICE):
        return Refusal("device", "cuda", text, restart=True)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return Refusal("retryable", "disk_full", text)
    if isinstance(error, OSError) and error.errno == errno.EIO:
        return Refusal("retryable", "disk_fault", text)
    return Refusal("internal", "bug", text)


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    text = str(error)
    return any(word in text for word in words)
