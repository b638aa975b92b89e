"""Limits on the bytes of request bodies that a process receives at once, per key and in total."""

from __future__ import annotations

from collections import Counter

from service.errors import TooManyBodiesError


class BodyBudget:
    """Counts the bytes of bodies that are being received, on one event loop."""

    def __init__(self, in_all: int, of_key: int) -> None:
        self._in_all = in_all
        self._of_key = of_key
        self._held: Counter[str] = Counter()
        self._total = 0

    def take(self, key_id: str, size: int) -> None:
        """Add bytes. Raises `TooManyBodiesError`, in which case none were added."""
        for held, limit, who in (
            (self._held[key_id], self._of_key, "This API key"),
            (self._total, self._in_all, "This process of the service"),
        ):
            if held + size > limit:
                raise TooManyBodiesError(
                    f"{who} is receiving request bodies of {limit} bytes, which is the limit. Send "
                    "fewer at once, or faster, and try again.",
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
