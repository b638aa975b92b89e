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
from service.serving.client import ServingClient

DEFAULT_URL = "http://127.0.0.1:8100"
DEFAULT_PATIENCE_SECONDS = 5.0
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
    return ExciseClient(url, _read_key(), patience_seconds=_choose_patience(is_waiting))


def open_serving_client(url: str, *, is_waiting: bool = False) -> ServingClient:
    """The same for what is served."""
    return ServingClient(url, _read_key(), patience_seconds=_choose_patience(is_waiting))


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


def _read_key() -> str:
    """The API key. Raises `CommandError`."""
    key = os.environ.get("EXCISE_API_KEY", "").strip()
    if not key:
        raise CommandError(
            "EXCISE_API_KEY is not set. Make a key with `excise keys create` and export it."
        )
    return key


def _choose_patience(is_waiting: bool) -> float:
    """Seconds to wait for a service that does not answer."""
    return WAITING_PATIENCE_SECONDS if is_waiting else DEFAULT_PATIENCE_SECONDS
