"""Recording a change in the audit log, in the transaction that makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from sqlalchemy.orm import Session

from excise.redaction import redact_value
from service.audit.origin import get_origin, get_request_id, get_trace_id
from service.models import AuditEntry

Action = Literal[
    "key.create",
    "key.revoke",
    "job.submit",
    "job.cancel",
    "job.delete",
    "job.delete_files",
    "prompt_set.create",
    "prompt_set.delete",
    "tenant.set_quotas",
    "tenant.delete",
    "webhook.create",
    "webhook.change",
    "webhook.rotate",
    "webhook.delete",
    "version.publish",
    "version.override",
    "version.retire",
    "alias.promote",
    "alias.rollback",
    "alias.split",
]


def record(
    session: Session,
    tenant_id: str,
    action: Action,
    target: str,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Record that the current actor did this to `target`; it is stored only with the change."""
    origin = get_origin()
    session.add(
        AuditEntry(
            tenant_id=tenant_id,
            actor=origin.actor,
            source=origin.source,
            request_id=get_request_id(),
            trace_id=get_trace_id(),
            action=action,
            target=target,
            data=cast(dict[str, Any], redact_value("", dict(data or {}))),
        )
    )
