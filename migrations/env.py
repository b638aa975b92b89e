"""Alembic's entry point: runs the revisions on the connection the caller opened."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from service.models import Base


def run_migrations() -> None:
    """Run the pending revisions on the caller's connection, in the caller's transaction."""
    connection: Connection | None = context.config.attributes.get("connection")
    if connection is None:
        raise RuntimeError("No connection given. Call service.database.upgrade_to_head(url).")
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()


run_migrations()
