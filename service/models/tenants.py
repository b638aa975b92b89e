"""Tenants: the owners of all other rows."""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from service.models.base import Base, CreatedAt


class Tenant(Base):
    """An owner; every other row belongs to exactly one."""

    __tablename__ = "tenants"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[CreatedAt]
    quotas: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """Quotas that differ from those in the settings, by name."""
