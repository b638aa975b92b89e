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
    """What is to be the URL of the database is none. The message repeats nothing of it."""

    def __init__(self) -> None:
        super().__init__(
            "EXCISE_DATABASE_URL is not the URL of a database, or not in UTF-8. "
            "Percent-encode what is special in user and password, such as @ as %40."
        )


_MAX_MESSAGE_CHARACTERS = 4000
_CONNECT_ARGUMENTS: dict[str, int | None] = {
    "connect_timeout": 5,
    "prepare_threshold": None,  # what one transaction prepares, PgBouncer hands to another
}
_MIGRATION_LOCK = 7_204_118_331  # any constant: the advisory lock that serialises migrations


def parse_database_url(url: str) -> URL:
    """The SQLAlchemy URL for `url`, with the psycopg 3 driver where none is named.

    Raises `DatabaseUrlError`, for a password with a bare `@` too: its end would be read as the
    name of the host, looked up and shown.
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
        """A session that commits when the block ends and rolls back when it raises."""
        with self._sessions() as session:
            yield session
            session.commit()

    def dispose(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def fetch_now(session: Session) -> datetime:
    """The database's clock, read now (not at the start of the transaction)."""
    return session.execute(select(func.clock_timestamp(type_=DateTime(True)))).scalar_one()


def clean_message(message: str) -> str:
    """`message` in a form PostgreSQL can hold: no NUL, no lone surrogates, bounded length."""
    cleaned = message.replace("\0", "").encode("utf-8", "replace").decode()
    return cleaned[:_MAX_MESSAGE_CHARACTERS]


def upgrade_to_head(url: str) -> None:
    """Bring the database at `url` to the newest schema; safe to call from many processes."""
    engine = create_engine(parse_database_url(url), connect_args=_CONNECT_ARGUMENTS)
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            config = _alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()


def fetch_revisions(connection: Connection) -> tuple[str | None, str | None]:
    """The schema revision the database is at, and the newest one this code knows."""
    current = MigrationContext.configure(connection).get_current_revision()
    return current, ScriptDirectory.from_config(_alembic_config()).get_current_head()


def _alembic_config() -> Config:
    """Alembic's configuration, pointing at the installed `migrations` package."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    return config
