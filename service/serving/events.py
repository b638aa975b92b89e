"""Events of versions and aliases: what was changed by whom, when and why."""

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
"""Kind of event → action in the audit log, for changes that somebody requested."""


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
    """Record an event of the version, or of an alias through it, and notify webhooks.

    Changes that somebody requested are audited as well.
    """
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
    if kind in _ACTIONS:
        _audit(
            session,
            version,
            kind,
            alias,
            {"asked_by": key_id, "from": from_version_id, "reason": reason, **(data or {})},
        )


def _audit(
    session: Session,
    version: ModelVersion,
    kind: EventKind,
    alias: str | None,
    details: Mapping[str, Any],
) -> None:
    """Write the change into the audit log, under the changed alias or version."""
    action = _ACTIONS[kind]
    is_of_alias = action.startswith("alias.")
    about = {"version": version.id} if is_of_alias else {"alias": version.target_alias}
    known = {name: value for name, value in {**about, **details}.items() if value is not None}
    target = alias if is_of_alias and alias is not None else version.id
    record(session, version.tenant_id, action, target, known)
