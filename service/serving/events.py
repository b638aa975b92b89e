"""The record of what happened to versions and aliases: who, when, why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from sqlalchemy.orm import Session

from service.audit.recording import Action, record
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

_ACTIONS: dict[EventKind, Action] = {
    "publish": "version.publish",
    "override": "version.override",
    "retire": "version.retire",
    "promote": "alias.promote",
    "rollback": "alias.rollback",
    "split": "alias.split",
}
"""The events that are changes somebody asked for, as the audit log calls them."""


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
    """Record what happened to the version, or to the alias through it.

    Webhooks are told of it, and what somebody asked for is in the audit log.
    """
    event = ServingEvent(
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
    session.add(event)
    details = {
        "alias": event.alias,
        "from_version": from_version_id,
        "to_version": to_version_id,
        "reason": reason,
    }
    tell_of_version(session, version, kind, details)
    if kind in _ACTIONS:
        _audit(session, version, _ACTIONS[kind], alias, event)


def _audit(
    session: Session, version: ModelVersion, action: Action, alias: str | None, event: ServingEvent
) -> None:
    is_of_alias = action.startswith("alias.")
    details = {
        "version": version.id if is_of_alias else None,
        "alias": None if is_of_alias else version.target_alias,
        "asked_by": event.key_id,
        "from": event.from_version_id,
        "reason": event.reason,
        **event.data,
    }
    known = {name: value for name, value in details.items() if value is not None}
    target = alias if is_of_alias and alias is not None else version.id
    record(session, version.tenant_id, action, target, known)
