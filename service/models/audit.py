"""The audit log: who changed what, when and from where."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Identity, Index
from sqlalchemy.orm import Mapped, mapped_column

from service.models.base import Base, CreatedAt


class AuditEntry(Base):
    """One change. The database refuses to update or delete it (migration 0007).

    It outlives its target, its tenant and its key, so no column here is a foreign key.
    """

    __tablename__ = "audit_log"
    __table_args__ = (Index("ix_audit_log_tenant_id_id", "tenant_id", "id"),)

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    at: Mapped[CreatedAt]
    tenant_id: Mapped[str]
    actor: Mapped[str]
    """A key's id, `operator <user>@<host>` for the command line, or `service`."""
    source: Mapped[str | None]
    """Address from which the request came; empty if there was no request."""
    request_id: Mapped[str | None]
    trace_id: Mapped[str | None]
    action: Mapped[str]
    """The kind of change, `<noun>.<verb>`; see `service.audit.recording.Action`."""
    target: Mapped[str]
    """The id or name of what was changed."""
    data: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Further details of the change; never a secret or a prompt."""
