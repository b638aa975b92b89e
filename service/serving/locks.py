"""Advisory locks in the database, with one holder at a time among all processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text

from service.database import Database

_MAY_IDLE = text("SET LOCAL idle_in_transaction_session_timeout = 0")
_TAKE = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))")


@contextmanager
def try_lock(database: Database, name: str) -> Iterator[bool]:
    """Yield whether this process holds the lock during the block; it ends with its transaction.

    The transaction does nothing else and keeps no snapshot, so that it does not disturb others. A
    session lock would not do, because PgBouncer assigns connections per transaction.
    """
    with database.engine.begin() as connection:
        connection.execute(_MAY_IDLE)
        yield bool(connection.execute(_TAKE, {"name": name}).scalar_one())
