"""Limits on the bytes of request bodies that a process holds at once, per key and in total."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import TooManyBodiesError


class BodyBudget:
    """Counts the bytes of bodies that are being received or processed, on one event loop."""

    def __init__(self, in_all: int, of_key: int) -> None:
        self._in_all = in_all
        self._of_key = of_key
        self._held: Counter[str] = Counter()
        self._total = 0

    @contextmanager
    def hold(self, key_id: str) -> Iterator[Callable[[int], None]]:
        """Yield what takes bytes for one body, as `take` does; in the end all are given back."""
        held = 0

        def take(size: int) -> None:
            nonlocal held
            self.take(key_id, size)
            held += size

        try:
            yield take
        finally:
            self.give(key_id, held)

    def take(self, key_id: str, size: int) -> None:
        """Add bytes. Raises `TooManyBodiesError`, in which case none were added."""
        for held, limit, who in (
            (self._held[key_id], self._of_key, "This API key"),
            (self._total, self._in_all, "This process of the service"),
        ):
            if held + size > limit:
                raise TooManyBodiesError(
                    f"{who} has request bodies of {limit} bytes under way, which is the limit. "
                    "Send fewer at once, or faster, and try again.",
                    param="body",
                )
        self._held[key_id] += size
        self._total += size

    def give(self, key_id: str, size: int) -> None:
        """Subtract bytes; keys without bodies are removed."""
        self._held[key_id] -= size
        self._total -= size
        if not self._held[key_id]:
            del self._held[key_id]
