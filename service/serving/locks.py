"""Advisory locks of the database: one holder at a time among any number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text

from service.database import Database

_TAKE = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
_GIVE = text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))")


@contextmanager
def try_lock(database: Database, name: str) -> Iterator[bool]:
    """Whether this process holds the lock for the block; it goes with its connection."""
    with database.engine.connect() as plain:
        connection = plain.execution_options(isolation_level="AUTOCOMMIT")
        is_held = bool(connection.execute(_TAKE, {"name": name}).scalar_one())
        try:
            yield is_held
        finally:
            if is_held:
                try:
                    connection.execute(_GIVE, {"name": name})
                except BaseException:
                    connection.invalidate()  # never back into the pool with the lock on it
                    raise
