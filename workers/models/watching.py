"""Reporting how fast a model generates text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Watcher = Callable[[int, float], None]
"""Called with the number of tokens generated and the seconds that it took."""

_watcher: ContextVar[Watcher | None] = ContextVar("excise_generation_watcher", default=None)


@contextmanager
def watching_generation(watcher: Watcher) -> Iterator[None]:
    """Within the context, `watcher` is called for every batch of responses."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def tell_generated(tokens: int, seconds: float) -> None:
    """Tell the watcher, if there is one, that a batch with `tokens` tokens took `seconds`."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher(tokens, seconds)
