"""Rate limits of API keys over all API processes, counted in the broker.

Each process also has its own buckets, which limit bursts. While the broker is down, only these are
used: no request is refused because of the outage, and log, answers and /readyz report it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import ConnectionPool

from service.errors import RateLimitedError
from service.gateway.limits import RateLimiter

logger = logging.getLogger(__name__)

_KEY_PREFIX = "excise:limits"
_ANSWER_SECONDS = 0.25
"""A broker that takes longer counts as down, because completions wait for it. Chosen by hand."""

_OUTAGE_SECONDS = 5.0
"""Time for which a broker that was down is not asked again. Chosen by hand."""
_MAX_CONNECTIONS = 32
"""Requests counted at once, each over a connection of its own; others wait. Chosen by hand."""


class SharedLimiter:
    """Takes a request from the process's own bucket and from the window all processes share."""

    def __init__(
        self,
        url: str,
        per_minute: int,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own = RateLimiter(per_minute, burst, clock)
        self._item = RateLimitItemPerMinute(per_minute + burst)
        self._per_minute = per_minute
        self._clock = clock
        self._away_until: float | None = None
        # the pool would raise at one request more, which says nothing about the broker
        self._turns = asyncio.Semaphore(_MAX_CONNECTIONS)
        self._pool: ConnectionPool = ConnectionPool.from_url(
            url,
            max_connections=_MAX_CONNECTIONS,
            socket_timeout=_ANSWER_SECONDS,
            socket_connect_timeout=_ANSWER_SECONDS,
        )
        storage = RedisStorage(
            "async+redis://",
            implementation="redispy",
            key_prefix=_KEY_PREFIX,
            connection_pool=self._pool,  # type: ignore[arg-type]  # as its documentation says
        )
        self._window = SlidingWindowCounterRateLimiter(storage)

    @property
    def is_shared(self) -> bool:
        """Whether all processes count together, as far as is known."""
        return self._away_until is None

    async def take(self, key_id: str) -> None:
        """Count one request of the key. Raises `RateLimitedError` if it has none left."""
        self._own.take(key_id)
        if self._is_away():
            return
        async with self._turns:
            if self._is_away():  # as those before it found out
                return
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    seconds = await self._find_wait(key_id)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with the broker, requests go on
                self._note_outage(error)
                return
        if self._away_until is not None:
            logger.warning("the broker answers again; rate limits count for all processes")
            self._away_until = None
        if seconds is not None:
            raise RateLimitedError(
                f"This API key may send {self._per_minute:g} requests a minute. "
                f"Try again in {seconds} s.",
                seconds,
            )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()

    async def _find_wait(self, key_id: str) -> int | None:
        """Count a request; if the limit is reached, return the seconds until it is allowed."""
        if await self._window.hit(self._item, key_id):
            return None
        stats = await self._window.get_window_stats(self._item, key_id)
        return max(1, math.ceil(stats.reset_time - time.time()))

    def _is_away(self) -> bool:
        """Whether the broker was down a moment ago, and is not to be asked yet."""
        return self._away_until is not None and self._clock() < self._away_until

    def _note_outage(self, error: Exception) -> None:
        if self._away_until is None:
            logger.warning(
                "the broker does not answer (%s); each process limits requests by itself",
                type(error).__name__,
            )
        self._away_until = self._clock() + _OUTAGE_SECONDS
