"""Lines in which tenants wait for work that takes seconds, so that none keeps others waiting."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import TypeVar

from service.errors import RateLimitedError

MAX_WAITING = 16
"""Largest number of one tenant's requests in its line, the first included. Chosen by hand."""

_RETRY_SECONDS = 5
_Value = TypeVar("_Value")


class TenantLines:
    """Does work in threads, on one event loop: of each tenant one at a time, and tenants in turn.

    So whoever asks for much work, or for costly work, keeps only the own tenant's requests waiting.
    """

    def __init__(self, threads: int, what: str) -> None:
        """`what` the work is, says the refusal, as in "16 requests wait until WHAT"."""
        self._what = what
        self._places = asyncio.Semaphore(threads)
        self._lines: dict[str, asyncio.Lock] = {}
        self._waiting: Counter[str] = Counter()
        # a pool of its own, because requests need the threads of the others
        self._threads = ThreadPoolExecutor(threads, "lines")

    @asynccontextmanager
    async def turn(self, tenant_id: str) -> AsyncIterator[None]:
        """Wait for the tenant's turn, and have it within the context.

        Raises `RateLimitedError` if the tenant's line is too long.
        """
        if self._waiting[tenant_id] >= MAX_WAITING:
            raise RateLimitedError(
                f"{MAX_WAITING} requests of this tenant wait until {self._what}, which is the "
                "limit. Try again in a few seconds.",
                _RETRY_SECONDS,
            )
        self._waiting[tenant_id] += 1
        try:
            async with self._lines.setdefault(tenant_id, asyncio.Lock()):
                yield
        finally:
            self._waiting[tenant_id] -= 1
            if not self._waiting[tenant_id]:
                del self._waiting[tenant_id], self._lines[tenant_id]

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a thread, and have it within the context; tenants get one after the other."""
        async with self._places:
            yield

    async def run(self, work: Callable[[], _Value]) -> _Value:
        """Return what `work` returns, done in a thread; the caller has a place."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, copy_context().run, work)

    def close(self) -> None:
        """Start nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
