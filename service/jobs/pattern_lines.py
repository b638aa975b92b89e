"""Lines in which tenants wait until their patterns are tried, in limited child processes."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from excise.patterns.searching import BusyError, Expression, PatternError, check_expression
from service.errors import InvalidRequestError, RateLimitedError, UnavailableError

MAX_CHILDREN = 2
"""Child processes at once per process; limits their processors and memory. Chosen by hand."""

MAX_WAITING = 16
"""Largest number of one tenant's requests in its line, the first included. Chosen by hand."""

MAX_REPEATS = 100_000
"""Largest sum of the counts in braces of a request's patterns. The package regex writes counted
parts out: `a{400000}` takes a second of processor time. Chosen by hand."""

MAX_SECONDS = 8.0
"""A request whose patterns have taken longer, waiting apart, is given up. Eight ordinary ones take
under a second; the worst eight took half a minute. Chosen by hand."""

_RETRY_SECONDS = 5
_COUNTS = re.compile(r"\{([0-9]*),?([0-9]*)\}")
_COUNTED_DIGITS = 9  # enough for any limit, and quickly read


@dataclass(frozen=True)
class FieldPattern:
    """A regular expression, and the field that holds it."""

    param: str
    """Such as `behaviours[0].pattern`."""
    expression: Expression


class PatternLines:
    """Tries patterns, on one event loop: of each tenant one at a time, and tenants in turn.

    So whoever sends many patterns, or costly ones, keeps only the own tenant's requests waiting.
    """

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(MAX_CHILDREN)
        self._lines: dict[str, asyncio.Lock] = {}
        self._waiting: Counter[str] = Counter()
        # a pool of its own, because requests need the threads of the others
        self._threads = ThreadPoolExecutor(MAX_CHILDREN, "patterns")

    async def check(
        self, tenant_id: str, patterns: Sequence[FieldPattern], has_left: Callable[[], bool]
    ) -> None:
        """Raise `InvalidRequestError` for the first unusable pattern, or if the client has left.

        Raises `RateLimitedError` if the tenant's line is too long, and `UnavailableError` if the
        patterns take too long.
        """
        check_repeats(patterns)
        if self._waiting[tenant_id] >= MAX_WAITING:
            raise RateLimitedError(
                f"{MAX_WAITING} requests of this tenant wait until their patterns are tried, which "
                "is the limit. Try again in a few seconds.",
                _RETRY_SECONDS,
            )
        self._waiting[tenant_id] += 1
        try:
            async with self._lines.setdefault(tenant_id, asyncio.Lock()):
                await self._try_all(patterns, has_left)
        finally:
            self._waiting[tenant_id] -= 1
            if not self._waiting[tenant_id]:
                del self._waiting[tenant_id], self._lines[tenant_id]

    def close(self) -> None:
        """Start nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _try_all(
        self, patterns: Sequence[FieldPattern], has_left: Callable[[], bool]
    ) -> None:
        """Try one after the other; other tenants have their turns in between."""
        loop, seconds = asyncio.get_running_loop(), 0.0
        for own in patterns:
            if seconds > MAX_SECONDS:
                raise UnavailableError(
                    f"{own.param} was not tried, as the patterns before it took more than "
                    f"{MAX_SECONDS:g} s. Lower the counts in braces, and remove nested "
                    "repetitions, such as (a+)+, or try again when the machine has less to do.",
                    param=own.param,
                )
            async with self._places:
                if has_left():
                    raise InvalidRequestError("The client left before its patterns were tried.")
                started = time.monotonic()
                await loop.run_in_executor(self._threads, _try, own)
                seconds += time.monotonic() - started


def check_repeats(patterns: Sequence[FieldPattern]) -> None:
    """Raise `InvalidRequestError` for the pattern with which all counts exceed `MAX_REPEATS`."""
    repeats = 0
    for own in patterns:
        for least, most in _COUNTS.findall(own.expression.pattern):
            repeats += int((most or least or "0")[:_COUNTED_DIGITS])
        if repeats > MAX_REPEATS:
            raise InvalidRequestError(
                f"{own.param} takes more than {MAX_REPEATS} repetitions together with the patterns "
                "before it. Lower the counts in braces.",
                param=own.param,
            )


def _try(own: FieldPattern) -> None:
    """Raise `InvalidRequestError` for an unusable pattern."""
    try:
        check_expression(own.expression)
    except PatternError as error:
        raise InvalidRequestError(f"{own.param} {error}", param=own.param) from error
    except BusyError:
        raise UnavailableError(
            f"{own.param} could not be checked: the machine is too busy. Try again later."
        ) from None
