"""SIGTERM and SIGHUP end a command in order, as Ctrl-C does: nothing half-written stays behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = ("SIGTERM", "SIGHUP")  # not every system has the second


class Terminated(SystemExit):
    """The process was told to end; its exit code is the one that shells give for the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Raise `Terminated` where either signal arrives, so that whatever cleans up does.

    A second signal ends the process at once. Signals that the process was started to ignore, as
    `nohup` does, stay ignored.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone may set handlers
        yield
        return
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    earlier = {number: signal.getsignal(number) for number in numbers}
    for number, handler in earlier.items():
        if handler is signal.SIG_DFL:
            signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _end(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise Terminated(number)
