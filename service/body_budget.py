"""How much of request bodies may be on its way at once in this process: by key, and in all."""

from __future__ import annotations

from collections import Counter

from service.errors import TooManyBodiesError


class BodyBudget:
    """Counts the bytes of bodies that are being received. Of one event loop."""

    def __init__(self, in_all: int, of_key: int) -> None:
        self._in_all = in_all
        self._of_key = of_key
        self._held: Counter[str] = Counter()
        self._total = 0

    def take(self, key_id: str, size: int) -> None:
        """Count more bytes. Raises `TooManyBodiesError`; then none were counted."""
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
        """Count less; keys without bodies are forgotten."""
        self._held[key_id] -= size
        self._total -= size
        if not self._held[key_id]:
            del self._held[key_id]
