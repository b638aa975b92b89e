"""A worker's heartbeats and leases in an outage: the first failure is logged, and the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from service.outages import OutageRecord
from workers.running import life_signs, supervision
from workers.running.life_signs import LifeSigns
from workers.running.supervision import Supervisor


def away() -> OperationalError:
    """What a database that cannot be reached raises."""
    return OperationalError("select", {}, Exception("connection refused"))


class _Signs(LifeSigns):
    """Heartbeats with these outcomes."""

    def __init__(self, *outcomes: bool | Exception) -> None:
        self._outcomes = iter(outcomes)
        self._outages = OutageRecord()

    def beat(self) -> bool:
        """Return or raise the next outcome."""
        outcome = next(self._outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class _Database:
    @contextmanager
    def transaction(self) -> Iterator[object]:
        """Yield what stands for a session."""
        yield object()


def test_heartbeats_that_fail_are_told_once_and_counted_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", life_signs.__name__)
    signs = _Signs(True, away(), away(), away(), True, True, away(), False)
    assert [signs.try_beat() for _ in range(8)] == [True] * 7 + [False]
    first = "no heartbeat: OperationalError"
    assert [record.getMessage() for record in caplog.records] == [
        first,
        "heartbeats go on, after 3 failures",
        first,
        "heartbeats go on, after 1 failure",
    ]


def test_so_is_a_lease_that_is_not_renewed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", supervision.__name__)
    outcomes = iter([False, away(), away(), True])

    def renew(*_: object) -> bool:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    settings: Any = SimpleNamespace(lease_seconds=1.0)
    database, work, claim = _Database(), SimpleNamespace(renew=renew), SimpleNamespace(row_id="j")
    supervisor = Supervisor(database, settings, "w")  # type: ignore[arg-type]
    outages = OutageRecord()
    found = [supervisor._renew(work, claim, outages) for _ in range(4)]  # type: ignore[arg-type,type-var]
    assert found == [False, False, False, True]
    assert [record.getMessage() for record in caplog.records] == [
        "lease of j not renewed: OperationalError",
        "lease of j renewed again, after 2 failures",
    ]
