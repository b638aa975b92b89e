"""Trying the patterns of requests, in limited child processes, tenant by tenant."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from excise.patterns.searching import BusyError, Expression, PatternError, check_expression
from service.errors import InvalidRequestError, UnavailableError
from service.tenant_lines import TenantLines

MAX_CHILDREN = 2
"""Child processes at once per process; limits their processors and memory. Chosen by hand."""

MAX_REPEATS = 100_000
"""Largest sum of the counts in braces of a request's patterns. The package regex writes counted
parts out: `a{400000}` takes a second of processor time. Chosen by hand."""

MAX_SECONDS = 8.0
"""A request whose patterns take longer than this, not counting waits, is refused. Eight ordinary
patterns take under a second; the worst eight took half a minute. Chosen by hand."""

_COUNTS = re.compile(r"\{([0-9]*),?([0-9]*)\}")
_COUNTED_DIGITS = 9  # enough for any limit, and quickly read


@dataclass(frozen=True)
class FieldPattern:
    """A regular expression, and the field that holds it."""

    param: str
    """Such as `behaviours[0].pattern`."""
    expression: Expression


class PatternLines:
    """Tries patterns: of each tenant one at a time, and tenants in turn."""

    def __init__(self) -> None:
        self._lines = TenantLines(MAX_CHILDREN, "their patterns are tried")

    async def check(
        self, tenant_id: str, patterns: Sequence[FieldPattern], has_left: Callable[[], bool]
    ) -> None:
        """Raise `InvalidRequestError` for the first unusable pattern, or if the client has left.

        Raises `RateLimitedError` if the tenant's line is too long, and `UnavailableError` if the
        patterns take too long.
        """
        check_repeats(patterns)
        async with self._lines.turn(tenant_id):
            await self._try_all(patterns, has_left)

    def close(self) -> None:
        """Start nothing more."""
        self._lines.close()

    async def _try_all(
        self, patterns: Sequence[FieldPattern], has_left: Callable[[], bool]
    ) -> None:
        """Try one after the other; other tenants have their turns in between."""
        seconds = 0.0
        for own in patterns:
            if seconds > MAX_SECONDS:
                raise UnavailableError(
                    f"{own.param} was not tried, as the patterns before it took more than "
                    f"{MAX_SECONDS:g} s. Lower the counts in braces, and remove nested "
                    "repetitions, such as (a+)+, or try again when the machine has less to do.",
                    param=own.param,
                )
            async with self._lines.place():
                if has_left():
                    raise InvalidRequestError("The client left before its patterns were tried.")
                started = time.monotonic()
                await self._lines.run(partial(_try, own))
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
