"""A cache with short-lived entries, so that not every request causes a database query."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_Value = TypeVar("_Value")

_MAX_ENTRIES = 10_000


class ShortCache(Generic[_Value]):
    """Values by key, kept for `seconds`; concurrent misses share one look-up.

    An error of a look-up is raised to all who wait for it and is not cached. `forget` may be called
    from any thread; values looked up before it are not returned to later callers.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._entries: dict[str, tuple[float, int, _Value]] = {}
        self._pending: dict[tuple[str, int], asyncio.Future[_Value]] = {}
        self._generation = 0

    async def get(self, key: str, load: Callable[[], Awaitable[_Value]]) -> _Value:
        """Return the value of `key`, calling `load` unless it is cached."""
        generation = self._generation
        entry = self._entries.get(key)
        if entry is not None and entry[1] == generation and entry[0] > time.monotonic():
            return entry[2]
        place = (key, generation)
        if (pending := self._pending.get(place)) is None:
            pending = asyncio.ensure_future(self._load(place, load))
            self._pending[place] = pending
            pending.add_done_callback(lambda done: self._finish(place, done))
        return await asyncio.shield(pending)

    def forget(self) -> None:
        """Clear the cache."""
        self._generation += 1

    async def _load(self, place: tuple[str, int], load: Callable[[], Awaitable[_Value]]) -> _Value:
        """Look the value up and keep it."""
        value = await load()
        if len(self._entries) >= _MAX_ENTRIES:
            self._entries.clear()
        key, generation = place
        newer = self._entries.get(key)
        if newer is None or newer[1] <= generation:
            self._entries[key] = (time.monotonic() + self._seconds, generation, value)
        return value

    def _finish(self, place: tuple[str, int], done: asyncio.Future[_Value]) -> None:
        """Finish a look-up; its error, if any, is marked as retrieved even if nobody waits."""
        self._pending.pop(place, None)
        if not done.cancelled():
            done.exception()
