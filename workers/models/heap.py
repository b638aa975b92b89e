"""The C library's heap, which keeps memory that is no longer used unless it is told not to."""

from __future__ import annotations

import ctypes
from contextlib import suppress

LARGE_BLOCK = 4 * 2**20
"""Bytes from which a block gets a mapping of its own, which returns to the operating system as soon
as the block is freed. glibc itself starts at 128 KiB and raises the limit to the largest such block
freed, up to 32 MiB (mallopt(3), M_MMAP_THRESHOLD); smaller blocks then leave holes between those in
use: a job on SmolLM2, whose logits are such blocks, took 100 MiB more (benchmarks/RESULTS.md). With
128 KiB, passes take half as much time again, since the system clears every page anew."""

_M_MMAP_THRESHOLD = -3
"""The parameter's number in glibc's malloc.h."""


def map_large_blocks() -> None:
    """Give large blocks mappings of their own, for the rest of this process's life.

    Does nothing with a C library other than glibc.
    """
    _call("mallopt", _M_MMAP_THRESHOLD, LARGE_BLOCK)


def trim_heap() -> None:
    """Return the heap's free pages to the operating system; also those between blocks in use.

    Does nothing with a C library other than glibc.
    """
    _call("malloc_trim", 0)


def _call(function: str, *arguments: int) -> None:
    with suppress(OSError, AttributeError):  # another C library
        getattr(ctypes.CDLL("libc.so.6"), function)(*arguments)
