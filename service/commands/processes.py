"""`excise api` and `excise worker`: one process of a deployment, in the foreground."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from excise.cli.output import print_line
from service.command_lines import build_api_arguments, build_worker_arguments
from service.commands.connection import find_database_url
from service.database import Database, find_outdated

_LOOK_SECONDS = 2.0


def api(
    host: Annotated[str, typer.Option(help="Address the API listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port it listens on.")] = 8100,
    grace_seconds: Annotated[
        int, typer.Option(min=0, help="Seconds for open requests after it is told to stop.")
    ] = 20,
) -> None:
    """Run one API process, using the servers in EXCISE_DATABASE_URL and EXCISE_BROKER_URL.

    It waits while the database is unreachable or not yet migrated (`excise migrate`).
    """
    wait_for_schema(find_database_url())
    _become(build_api_arguments(host, port, grace_seconds=grace_seconds))


def worker(
    name: Annotated[str, typer.Option(help="The worker's name, unique on this host.")] = "excise",
) -> None:
    """Run one worker, using the servers in EXCISE_DATABASE_URL and EXCISE_BROKER_URL.

    It waits while the database is unreachable or not yet migrated (`excise migrate`). When told to
    stop, it gives its job back, and another worker continues after the last finished stage.
    """
    wait_for_schema(find_database_url())
    _become(build_worker_arguments(name))


def wait_for_schema(url: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Return once the database answers and its schema suits this release.

    The reason for waiting is printed whenever it changes.
    """
    database, said = Database(url, pool_size=1, max_overflow=0), ""
    try:
        while (missing := _find_missing(database)) is not None:
            if missing != said:
                print_line(f"waiting for the database: {missing}")
            said = missing
            sleep(_LOOK_SECONDS)
    finally:
        database.dispose()


def _find_missing(database: Database) -> str | None:
    """Return why nothing can start yet, in words, or None."""
    try:
        with database.engine.connect() as connection:
            return find_outdated(connection)
    except SQLAlchemyError as error:
        return f"it does not answer ({type(error).__name__})"


def _become(arguments: list[str]) -> None:
    """Replace this process, so that signals reach the program itself."""
    os.execv(arguments[0], arguments)  # noqa: S606 - our own interpreter, no shell
