"""The audit log on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel


class AuditEntryView(BaseModel):
    """One change: who, what, when, from where."""

    id: int
    object: Literal["audit_entry"] = "audit_entry"
    at: datetime
    tenant_id: str
    actor: str
    source: str | None
    request_id: str | None
    trace_id: str | None
    action: str
    target: str
    data: dict[str, Any]


class AuditList(BaseModel):
    """One page of the audit log, oldest first."""

    object: Literal["list"] = "list"
    data: list[AuditEntryView]
    has_more: bool
