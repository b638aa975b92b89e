"""Folders that commands write: complete or not at all, also where a signal ends the command."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # not every system has the last


@contextmanager
def building_folder(output: Path) -> Iterator[Path]:
    """Yield a path for a new folder, which becomes `output` once the block has succeeded.

    It lies beside `output`, on the same disk. Whatever ends the block, nothing else stays.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with _holding_signals():  # between making the scratch folder and noting that it exists
            scratch = TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-")
            stack.enter_context(scratch)
        folder = Path(scratch.name) / "whole"
        yield folder
        with _holding_signals():
            folder.rename(output)
            stack.close()


@contextmanager
def _holding_signals() -> Iterator[None]:
    """Deliver signals that end a command after the block; those that are ignored stay ignored.

    A mask of the system's would hold them back from one thread only, and torch has several.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone may set handlers
        yield
        return
    held: list[int] = []

    def hold(number: int, _frame: FrameType | None) -> None:
        held.append(number)

    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    earlier = {number: signal.getsignal(number) for number in numbers}
    changed = [number for number in numbers if earlier[number] not in (None, signal.SIG_IGN)]
    for number in changed:
        signal.signal(number, hold)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, earlier[number])
        if held:
            signal.raise_signal(held[0])
