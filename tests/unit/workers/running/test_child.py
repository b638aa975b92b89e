"""Which of the database's errors say something about the work."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors
from sqlalchemy.exc import InterfaceError, OperationalError

from workers.running.child import is_away


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (psycopg.OperationalError("connection refused"), True),
        (errors.ConnectionFailure(), True),
        (errors.AdminShutdown(), True),
        (errors.CannotConnectNow(), True),
        (errors.TooManyConnections(), True),
        (errors.DiskFull(), True),
        (errors.ProgramLimitExceeded(), False),
        (errors.QueryCanceled(), False),
    ],
)
def test_a_server_that_is_away_is_told_from_one_that_refuses(
    error: psycopg.Error, expected: bool
) -> None:
    assert is_away(OperationalError("SELECT 1", {}, error)) is expected


def test_a_closed_connection_is_an_outage() -> None:
    assert is_away(InterfaceError("SELECT 1", {}, psycopg.InterfaceError("closed")))
