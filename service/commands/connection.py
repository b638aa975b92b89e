"""Where the commands find the service, the database and the home: the environment is read here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from service.client import ExciseClient
from service.commands.output import CommandError
from service.database import Database
from service.embedded import read_running_stack

DEFAULT_URL = "http://127.0.0.1:8100"
WAITING_PATIENCE_SECONDS = 120.0

UrlOption = Annotated[
    str, typer.Option("--url", envvar="EXCISE_URL", help="Where the service answers.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def find_home() -> Path:
    """The embedded stack's folder: EXCISE_HOME, or .excise in the current folder."""
    return Path(os.environ.get("EXCISE_HOME") or ".excise").expanduser().absolute()


def open_client(url: str, *, is_waiting: bool = False) -> ExciseClient:
    """A client with the key from EXCISE_API_KEY; never from a flag, which others could see."""
    key = os.environ.get("EXCISE_API_KEY", "").strip()
    if not key:
        raise CommandError(
            "EXCISE_API_KEY is not set. Make a key with `excise keys create` and export it."
        )
    if is_waiting:
        return ExciseClient(url, key, patience_seconds=WAITING_PATIENCE_SECONDS)
    return ExciseClient(url, key)


def find_database_url() -> str:
    """EXCISE_DATABASE_URL, or the database of the embedded stack that runs in the home."""
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
    """The database, for commands that work on it directly."""
    try:
        database = Database(find_database_url(), pool_size=1, max_overflow=0)
        try:
            yield database
        finally:
            database.dispose()
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise CommandError(
            f"The database does not do what it should: {reason}. "
            "Is it running, and migrated (excise migrate)?"
        ) from None
