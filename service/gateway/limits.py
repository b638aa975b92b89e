"""Limits in this process: a token bucket per key, and completions that are under way."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable

from service.errors import RateLimitedError
from service.keys.operations import Identity

_MAX_BUCKETS = 10_000
_RETRY_SECONDS = 5


class RateLimiter:
    """Token buckets that hold `burst` requests and refill at `per_minute`."""

    def __init__(
        self, per_minute: int, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second = per_minute / 60
        self._burst = float(burst)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key_id: str) -> None:
        """Count one request of the key. Raises `RateLimitedError` if it has none left."""
        now = self._clock()
        tokens, at = self._buckets.get(key_id, (self._burst, now))
        tokens = min(self._burst, tokens + (now - at) * self._per_second)
        if tokens < 1:
            self._buckets[key_id] = (tokens, now)
            seconds = math.ceil((1 - tokens) / self._per_second)
            raise RateLimitedError(
                f"This API key may send {self._per_second * 60:g} requests a minute. "
                f"Try again in {seconds} s.",
                seconds,
            )
        if key_id not in self._buckets and len(self._buckets) >= _MAX_BUCKETS:
            self._drop_full(now)
        self._buckets[key_id] = (tokens - 1, now)

    def _drop_full(self, now: float) -> None:
        """Drop buckets that would be full by now, because a new one is equivalent."""
        self._buckets = {
            key: (tokens, at)
            for key, (tokens, at) in self._buckets.items()
            if tokens + (now - at) * self._per_second < self._burst
        }


class OpenCompletions:
    """Counts completions under way, so that no tenant takes all connections to the servers."""

    def __init__(self, of_key: int, of_tenant: int) -> None:
        self._limits = (of_key, of_tenant)
        self._open: Counter[str] = Counter()

    def take(self, caller: Identity) -> None:
        """Count one more. Raises `RateLimitedError`, and counts nothing, if a limit is reached."""
        owners = _name_owners(caller)
        for owner, limit, who in zip(owners, self._limits, ("API key", "tenant"), strict=True):
            if self._open[owner] >= limit:
                raise RateLimitedError(
                    f"This {who} has {limit} completions under way, which is the limit. Read or "
                    f"close one, or try again in {_RETRY_SECONDS} s.",
                    _RETRY_SECONDS,
                )
        self._open.update(owners)

    def give(self, caller: Identity) -> None:
        """Count one less, and forget owners who have none."""
        self._open.subtract(_name_owners(caller))
        self._open = +self._open


def _name_owners(caller: Identity) -> tuple[str, str]:
    """Return for whom a completion counts; their ids differ in kind."""
    return f"key {caller.key_id}", f"tenant {caller.tenant_id}"
