"""Idempotency keys: the job or version that a repeated request already created."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from service.models.base import Base, CreatedAt


class IdempotencyKey(Base):
    """One `Idempotency-Key` of a tenant, with its request and what that created."""

    __tablename__ = "idempotency_keys"

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str]
    job_id: Mapped[str] = mapped_column(
        ForeignKey("jobs.id", deferrable=True, initially="DEFERRED")
    )
    """The job that the request created, or whose version it created."""
    version_id: Mapped[str | None] = mapped_column(
        ForeignKey("model_versions.id", deferrable=True, initially="DEFERRED")
    )
    created_at: Mapped[CreatedAt]
