"""How long-running work says how far it came; whoever listens may raise to stop it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (done, total); may raise to stop."""

Advance = Callable[[int], None]
"""Called with the number of units of work just finished; may raise to stop."""


class Counter:
    """Adds up finished units of work, never beyond those expected, for a `Progress`."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def __call__(self, units: int) -> None:
        """Add `units` to those done: the counter is an `Advance`."""
        self._done = min(self._done + units, self._total)
        self._progress(self._done, self._total)

    def expect(self, units: int) -> None:
        """Add `units` to the total: work that turned up on the way."""
        self._total += units


def ignore(units: int) -> None:
    """Listen to nothing: the callback of callers that do not care how far work came."""
