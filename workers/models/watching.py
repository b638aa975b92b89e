"""How fast a model answers, told to whoever watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Watcher = Callable[[int, float], None]
"""Takes how many tokens were generated, and in how many seconds."""

_watcher: ContextVar[Watcher | None] = ContextVar("excise_generation_watcher", default=None)


@contextmanager
def watching_generation(watcher: Watcher) -> Iterator[None]:
    """Within the context, `watcher` is told of every batch of responses."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def tell_generated(tokens: int, seconds: float) -> None:
    """A batch of responses with so many tokens is done."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher(tokens, seconds)
