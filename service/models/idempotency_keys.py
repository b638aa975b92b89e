"""Idempotency keys: which job or version a repeated request already made."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from service.models.base import Base, CreatedAt


class IdempotencyKey(Base):
    """One `Idempotency-Key` of a tenant, the request it stood for and what it made."""

    __tablename__ = "idempotency_keys"

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str]
    job_id: Mapped[str] = mapped_column(
        ForeignKey("jobs.id", deferrable=True, initially="DEFERRED")
    )
    """The job it made, or whose version it made."""
    version_id: Mapped[str | None] = mapped_column(
        ForeignKey("model_versions.id", deferrable=True, initially="DEFERRED")
    )
    created_at: Mapped[CreatedAt]
