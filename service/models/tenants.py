"""Tenants: who owns the rows."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, mapped_column

from service.models.base import Base, CreatedAt


class Tenant(Base):
    """An owner; every other row belongs to exactly one."""

    __tablename__ = "tenants"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[CreatedAt]
