"""The devices and number formats that models are loaded to."""

from __future__ import annotations

import torch
from torch import nn

from excise.names import ComputeDtype
from workers.models.heap import trim_heap

BALANCED = "balanced"
"""Name for all GPUs together, for models larger than one GPU."""

DTYPES = {ComputeDtype.FLOAT32: torch.float32, ComputeDtype.BFLOAT16: torch.bfloat16}
"""Number formats that models are computed in, by their names in job specs and settings."""


def choose_device(asked: str) -> str:
    """Return the device for a setting: `auto` means a GPU if there is one, else the CPU.

    `BALANCED` stays as it is if there are several GPUs, and means `auto` otherwise.
    """
    if asked == BALANCED and torch.cuda.device_count() > 1:
        return BALANCED
    if asked not in ("auto", BALANCED):
        return asked
    return "cuda" if torch.cuda.is_available() else "cpu"


def find_device(module: nn.Module) -> torch.device:
    """Return the device of a module's own weights."""
    return next(module.parameters()).device


def count_devices() -> int:
    """Return the number of GPUs."""
    return torch.cuda.device_count()


def release_unused_memory() -> None:
    """Return memory that is held but not used to the GPU and to the operating system.

    glibc's heap keeps freed blocks that lie between blocks in use; after torch has freed its
    tensors, these can be as large as the tensors were.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim_heap()
