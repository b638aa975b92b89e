"""How much memory is free, and how torch and Python say that it ran out."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

_CGROUP = Path("/sys/fs/cgroup")

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


def find_free_memory(device: torch.device, cgroup: Path = _CGROUP) -> int:
    """Return the bytes that may still be taken on a device.

    On the CPU what the machine has available, or what is left to this process's group where that
    is less (Linux cgroups of version 2, mounted at `cgroup`).
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    available = int(psutil.virtual_memory().available)
    try:
        most, used = ((cgroup / f"memory.{name}").read_text() for name in ("max", "current"))
        return max(0, min(available, int(most) - int(used)))
    except (OSError, ValueError):  # no such group, or one without a limit: "max"
        return available
