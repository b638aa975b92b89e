"""The record of what happened to versions and aliases: who, when, why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from sqlalchemy.orm import Session

from service.models import ModelVersion, ServingEvent
from service.webhooks.messages import tell_of_version

EventKind = Literal[
    "publish",
    "override",
    "build",
    "requeue",
    "failed",
    "canary",
    "live",
    "unavailable",
    "promote",
    "rollback",
    "split",
    "retire",
]


def append_event(
    session: Session,
    version: ModelVersion,
    kind: EventKind,
    message: str,
    *,
    alias: str | None = None,
    key_id: str | None = None,
    reason: str | None = None,
    from_version_id: str | None = None,
    to_version_id: str | None = None,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Record what happened to the version, or to the alias through it, and tell webhooks."""
    session.add(
        ServingEvent(
            tenant_id=version.tenant_id,
            kind=kind,
            alias=alias or version.target_alias,
            version_id=version.id,
            key_id=key_id,
            from_version_id=from_version_id,
            to_version_id=to_version_id,
            reason=reason,
            message=message,
            data=dict(data or {}),
        )
    )
    details = {
        "alias": alias or version.target_alias,
        "from_version": from_version_id,
        "to_version": to_version_id,
        "reason": reason,
    }
    tell_of_version(session, version, kind, details)
