"""Which device, and which number format, a model is loaded to."""

from __future__ import annotations

import ctypes
from contextlib import suppress

import torch
from torch import nn

from excise.names import ComputeDtype

BALANCED = "balanced"
"""The device that is all GPUs together, for models larger than one."""

DTYPES = {ComputeDtype.FLOAT32: torch.float32, ComputeDtype.BFLOAT16: torch.bfloat16}
"""What models are computed in, by the name that job specs and configurations give."""


def choose_device(asked: str) -> str:
    """Return the device that `asked` means: `auto` is a GPU where there is one.

    `BALANCED` is itself where there are several GPUs, and `auto` otherwise.
    """
    if asked == BALANCED and torch.cuda.device_count() > 1:
        return BALANCED
    if asked not in ("auto", BALANCED):
        return asked
    return "cuda" if torch.cuda.is_available() else "cpu"


def find_device(module: nn.Module) -> torch.device:
    """Return the device that a module's own weights lie on."""
    return next(module.parameters()).device


def count_devices() -> int:
    """Return the number of GPUs."""
    return torch.cuda.device_count()


def release_unused_memory() -> None:
    """Give memory that is held but not used back: to the GPU, and to the system.

    glibc's heap keeps what was freed between what is still in use; torch's tensors leave as much
    of that as they take.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
