"""Where the commands find the home and the database, from the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from excise.cli.output import CommandError
from service.audit.origin import as_operator
from service.database import Database
from service.embedded import read_running_stack
from service.errors import ExciseError


def find_home() -> Path:
    """Return the embedded stack's folder: EXCISE_HOME, or .excise in the current folder."""
    return Path(os.environ.get("EXCISE_HOME") or ".excise").expanduser().absolute()


def find_database_url() -> str:
    """Return EXCISE_DATABASE_URL, or the database URL of the embedded stack running in the home.

    Raises `CommandError` if there is neither.
    """
    if configured := os.environ.get("EXCISE_DATABASE_URL"):
        return configured
    if (running := read_running_stack(find_home())) is not None:
        return running.database_url
    raise CommandError(
        f"No database: EXCISE_DATABASE_URL is not set and no stack runs in {find_home()}. "
        "Start one with `excise up`, or set EXCISE_HOME to the home of one that runs."
    )


@contextmanager
def open_database() -> Iterator[Database]:
    """Open the database for commands that use it directly.

    Raises `CommandError`, also in place of an `ExciseError` of what is done with it.
    """
    try:
        database = Database(find_database_url(), pool_size=1, max_overflow=0)
        try:
            with as_operator():
                yield database
        finally:
            database.dispose()
    except ExciseError as error:
        raise CommandError(error.message) from None
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise CommandError(
            f"The database reports an error: {reason}. "
            "Is it running, and migrated (excise migrate)?"
        ) from None
