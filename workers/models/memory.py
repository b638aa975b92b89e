"""How torch and Python say that memory ran out."""

from __future__ import annotations

import torch

_MESSAGES = (
    "can't allocate memory",  # torch's allocator on the CPU
    "CUDA error: out of memory",  # where others hold the rest of the device
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that memory ran out, of the device or of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)
