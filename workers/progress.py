"""How long-running work says how far it came; whoever listens may raise to stop it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (done, total); may raise to stop."""

Advance = Callable[[int], None]
"""Called with the number of units of work just finished; may raise to stop."""


def count_up(progress: Progress, total: int) -> Advance:
    """Return a callback that adds up finished units, never beyond `total`, for `progress`."""
    done = 0

    def advance(units: int) -> None:
        nonlocal done
        done = min(done + units, total)
        progress(done, total)

    return advance


def ignore(units: int) -> None:
    """Listen to nothing: the callback of callers that do not care how far work came."""
