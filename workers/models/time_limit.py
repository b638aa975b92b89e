"""A limit on how long foreign code, such as a checkpoint's chat template, may run."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SOON = 0.001
"""Seconds until an earlier timer fires that has expired in the meantime."""


class TimeLimitError(Exception):
    """The code did not end within the time limit."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TimeLimitError` within the context after `seconds`.

    A timer signal interrupts the code. Only a process's main thread gets signals, so in other
    threads there is no limit; a worker's child does its work in the main thread. A timer that is
    already running is continued afterwards; if it ends sooner, it stays in force.
    """
    running, interval = signal.getitimer(signal.ITIMER_REAL)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or 0 < running <= seconds:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise TimeLimitError

    earlier = signal.signal(signal.SIGALRM, stop)
    started = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
        if running:
            left = max(running - (time.monotonic() - started), _SOON)
            signal.setitimer(signal.ITIMER_REAL, left, interval)
