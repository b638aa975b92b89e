"""Common parts of all tables: the declarative base, column types and identifiers."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Annotated, Any, ClassVar

from sqlalchemy import BigInteger, DateTime, MetaData, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

CreatedAt = Annotated[
    datetime, mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())
]


class Base(DeclarativeBase):
    """The declarative base; constraint names are fixed so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        int: BigInteger,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        dict[str, str]: JSONB,
    }


class Leased:
    """The columns of a table whose rows workers hold by leases; see `service.leases`."""

    id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str]
    attempts: Mapped[int] = mapped_column(default=0)
    """Number of times a worker took it, without attempts that do not count."""
    lease_token: Mapped[int] = mapped_column(default=0)
    """Fencing token: increases with every claim; only the holder of the newest may write."""
    lease_worker: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]


def new_id(prefix: str) -> str:
    """Return a new identifier, `<prefix>_<24 hex digits>`."""
    return f"{prefix}_{secrets.token_hex(12)}"
