"""A limit on how much memory foreign code, such as a checkpoint's chat template, may take."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STATUS = Path("/proc/self/statm")
"""Pages of the address space come first; of Linux alone."""


@contextmanager
def memory_limit(extra_bytes: int) -> Iterator[None]:
    """Let the process grow by `extra_bytes` at most within the context; beyond is `MemoryError`.

    The limit is the process's, so it is set where nothing else happens meanwhile: in the main
    thread. A worker's child does its work there. Elsewhere, and where the system does not say how
    large a process is, there is none.
    """
    if threading.current_thread() is not threading.main_thread() or not _STATUS.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = _measure_address_space() + extra_bytes
    lowest = min((wanted, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)))
    resource.setrlimit(resource.RLIMIT_AS, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _measure_address_space() -> int:
    return int(_STATUS.read_text().split()[0]) * resource.getpagesize()
