"""The database: engine, session factory, migrations, and the only commit in the service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    URL,
    Connection,
    DateTime,
    Engine,
    create_engine,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session, sessionmaker

import migrations
from excise.errors import UserError


class DatabaseUrlError(UserError, ValueError):
    """The database's URL is not a URL. The message does not repeat any part of it."""

    def __init__(self) -> None:
        super().__init__(
            "EXCISE_DATABASE_URL is not the URL of a database, or not in UTF-8. "
            "Percent-encode special characters in user and password, such as @ as %40."
        )


_MAX_MESSAGE_CHARACTERS = 4000
_CONNECT_ARGUMENTS: dict[str, int | None] = {
    "connect_timeout": 5,
    "prepare_threshold": None,  # PgBouncer would hand prepared statements to other transactions
}
_MIGRATION_LOCK = 7_204_118_331  # any constant: the advisory lock that serialises migrations


def parse_database_url(url: str) -> URL:
    """Return the SQLAlchemy URL for `url`, with the psycopg 3 driver if none is named.

    Raises `DatabaseUrlError`, also for a password with an unencoded `@`, whose end would be taken
    for the host's name, looked up and shown.
    """
    try:
        url.encode()
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise DatabaseUrlError from None
    place, _, query = url.partition("@")[2].partition("?")
    names = (pair.partition("=")[0] for pair in query.split("&"))
    if "@" in place or any("@" in name for name in names):
        raise DatabaseUrlError
    if parsed.drivername in {"postgres", "postgresql"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed


class Database:
    """A pool of connections to one PostgreSQL database."""

    def __init__(self, url: str, *, pool_size: int = 20, max_overflow: int = 20) -> None:
        self.engine: Engine = create_engine(
            parse_database_url(url),
            pool_pre_ping=True,
            pool_size=pool_size,
            max_overflow=max_overflow,
            pool_timeout=10,
            connect_args=_CONNECT_ARGUMENTS,
            hide_parameters=True,
        )
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Yield a session that commits when the block ends and rolls back when it raises."""
        with self._sessions() as session:
            yield session
            session.commit()

    def dispose(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def fetch_now(session: Session) -> datetime:
    """Return the database's current time (not that of the transaction's start)."""
    return session.execute(select(func.clock_timestamp(type_=DateTime(True)))).scalar_one()


def fetch_server_start(session: Session) -> datetime:
    """Return when the database server was last started."""
    start = func.pg_postmaster_start_time(type_=DateTime(True))
    return session.execute(select(start)).scalar_one()


def clean_message(message: str) -> str:
    """Return `message` as PostgreSQL can store it: no NUL or lone surrogates, bounded length."""
    cleaned = message.replace("\0", "").encode("utf-8", "replace").decode()
    return cleaned[:_MAX_MESSAGE_CHARACTERS]


def upgrade_to_head(url: str) -> None:
    """Migrate the database at `url` to the newest schema; safe to call from many processes.

    The schema of a newer release is left as it is, because this release can work with it.
    """
    engine = create_engine(parse_database_url(url), connect_args=_CONNECT_ARGUMENTS)
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            if find_outdated(connection) is None:
                return
            config = _alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()


def fetch_revisions(connection: Connection) -> tuple[str | None, str | None]:
    """Return the schema revision of the database, and the newest one that this code knows."""
    current = MigrationContext.configure(connection).get_current_revision()
    return current, ScriptDirectory.from_config(_alembic_config()).get_current_head()


def find_outdated(connection: Connection) -> str | None:
    """Return why this code cannot work with the database's schema yet; None if it can.

    A revision that this code does not know is a newer release's and is fine, because migrations
    only add to what the previous release uses
    (docs/decisions/0024-deployed-by-expand-and-contract.md).
    """
    current, newest = fetch_revisions(connection)
    revisions = ScriptDirectory.from_config(_alembic_config()).walk_revisions()
    older = {revision.revision for revision in revisions} - {newest}
    if current is None:
        return (
            f"it is empty, needs {newest}; run `excise migrate` if it is new, or, if it has lost "
            "its data, restore the backup first (docs/runbooks/lost-database.md)"
        )
    if current in older:
        return f"at {current}, needs {newest}; run `excise migrate`"
    return None


def _alembic_config() -> Config:
    """Alembic's configuration, pointing at the installed `migrations` package."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    return config
