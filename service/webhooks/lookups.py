"""Checking the URLs of requests, whose names somebody else's name server answers for, or does not.

A look-up cannot be ended, so its thread counts as its tenant's until it ends by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from service.errors import InvalidRequestError, UnavailableError
from service.tenant_lines import TenantLines
from service.webhooks import operations
from service.webhooks.sending import LOOKUP_SECONDS

LOOKUP_THREADS = 8
"""Look-ups at once per process, one of each tenant. They only wait. Chosen by hand."""


class UrlChecks:
    """Checks URLs: of each tenant one at a time, and within `LOOKUP_SECONDS`, waiting included."""

    def __init__(self, seconds: float = LOOKUP_SECONDS) -> None:
        self._seconds = seconds
        self._lines = TenantLines(LOOKUP_THREADS, "their URLs are looked up")
        self._begun: set[asyncio.Task[None]] = set()

    async def check(self, tenant_id: str, url: str, allowed_hosts: Sequence[str]) -> None:
        """Check `url` as `operations.check_url` does, and raise what that raises.

        Raises `InvalidRequestError` also if the look-up takes too long, `UnavailableError` if it
        did not begin in time, and `RateLimitedError` if the tenant's line is too long.
        """
        checking = asyncio.ensure_future(self._check(tenant_id, url, allowed_hosts))
        try:
            await asyncio.wait({checking}, timeout=self._seconds)
            if checking.done():
                return checking.result()
        finally:
            if checking not in self._begun:
                checking.cancel()
            else:
                checking.add_done_callback(_forget_error)
        if checking in self._begun:
            raise InvalidRequestError(
                f"url: its name was not looked up within {self._seconds:g} s. Check its name "
                "server, or try again.",
                param="url",
            )
        raise UnavailableError(
            f"url: other names were being looked up for {self._seconds:g} s. Try again later.",
            param="url",
        )

    def close(self) -> None:
        """Start nothing more."""
        self._lines.close()

    async def _check(self, tenant_id: str, url: str, allowed_hosts: Sequence[str]) -> None:
        """Check in the tenant's turn, which lasts as long as the thread is occupied."""
        own = asyncio.current_task()
        assert own is not None
        async with self._lines.turn(tenant_id), self._lines.place():
            self._begun.add(own)
            try:
                await self._lines.run(lambda: operations.check_url(url, allowed_hosts))
            finally:
                self._begun.discard(own)


def _forget_error(task: asyncio.Task[None]) -> None:
    """Take the result of a check whose request was answered already."""
    if not task.cancelled():
        task.exception()
