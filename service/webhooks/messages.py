"""Messages to webhooks, written in the transaction of the event and sent after its commit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select, text
from sqlalchemy.orm import Session

from excise.names import VersionStatus, WebhookEvent, WebhookStatus
from service.database import fetch_now
from service.models import Job, ModelVersion, Webhook, WebhookDelivery, new_id
from service.webhooks.retries import TRIES

_HAS_WEBHOOKS = text(f"SELECT to_regclass('{Webhook.__tablename__}')::text")
_JOB_EVENTS = frozenset(event.value for event in WebhookEvent if event.startswith("job."))
_VERSION_EVENTS = {
    "publish": WebhookEvent.VERSION_PUBLISHED,
    "build": WebhookEvent.VERSION_BUILT,
    "failed": WebhookEvent.VERSION_FAILED,
    "unavailable": WebhookEvent.VERSION_UNAVAILABLE,
    "retire": WebhookEvent.VERSION_RETIRED,
    "promote": WebhookEvent.ALIAS_PROMOTED,
    "rollback": WebhookEvent.ALIAS_ROLLED_BACK,
    "split": WebhookEvent.ALIAS_SPLIT,
}
_AFTER_CANARY = {
    VersionStatus.LIVE: WebhookEvent.VERSION_LIVE,
    VersionStatus.FAILED: WebhookEvent.VERSION_FAILED,
    VersionStatus.UNAVAILABLE: WebhookEvent.VERSION_UNAVAILABLE,
}


def tell_of_job(session: Session, job_id: str, event: str) -> None:
    """Write messages about a job's event, if webhooks can receive it."""
    if event not in _JOB_EVENTS:
        return
    listeners = _list_listeners(session, select(Job.tenant_id).where(Job.id == job_id), event)
    if not listeners:
        return
    job = session.get_one(Job, job_id)
    data = {
        "job": job.id,
        "kind": job.kind,
        "model": job.model,
        "status": str(job.status),
        "verdict": job.verdict,
        "error_code": job.error_code,
        "metadata": job.user_metadata,
    }
    _write(session, listeners, event, data)


def tell_of_version(
    session: Session, version: ModelVersion, kind: str, details: Mapping[str, Any]
) -> None:
    """Write messages about an event of a version or an alias, if webhooks can receive it."""
    status = VersionStatus(version.status)
    event = _AFTER_CANARY.get(status) if kind == "canary" else _VERSION_EVENTS.get(kind)
    if event is None:
        return
    tenant = select(ModelVersion.tenant_id).where(ModelVersion.id == version.id)
    if not (listeners := _list_listeners(session, tenant, event)):
        return
    data = {"version": version.id, "job": version.job_id, "status": status.value, **details}
    _write(session, listeners, event, data)


def tell_of_disabling(session: Session, webhook: Webhook) -> None:
    """Tell the tenant's other webhooks that this one was disabled."""
    tenant = select(Webhook.tenant_id).where(Webhook.id == webhook.id)
    listeners = _list_listeners(session, tenant, WebhookEvent.WEBHOOK_DISABLED)
    others = [other for other in listeners if other.id != webhook.id]
    data = {"webhook": webhook.id, "reason": webhook.status_reason}
    _write(session, others, WebhookEvent.WEBHOOK_DISABLED, data)


def ping(session: Session, webhook: Webhook) -> WebhookDelivery:
    """Write a message to this webhook alone, and return it."""
    data = {"webhook": webhook.id}
    (delivery,) = _write(session, [webhook], WebhookEvent.WEBHOOK_PING, data)
    return delivery


def _list_listeners(session: Session, tenant: Select[Any], event: str) -> Sequence[Webhook]:
    """Return the tenant's enabled webhooks for the event, locked against deletion.

    Returns none if the database is not migrated yet, so that jobs can continue.
    """
    if session.scalar(_HAS_WEBHOOKS) is None:
        return []
    statement = select(Webhook).where(
        Webhook.tenant_id == tenant.scalar_subquery(),
        Webhook.status == WebhookStatus.ENABLED,
        Webhook.events.contains([event]),
    )
    return session.scalars(statement.with_for_update(read=True, key_share=True)).all()


def _write(
    session: Session, webhooks: Sequence[Webhook], event: str, data: Mapping[str, Any]
) -> list[WebhookDelivery]:
    now = fetch_now(session)
    event_id, body = new_id("evt"), _build_body(event, now, data)
    deliveries = [
        WebhookDelivery(
            id=new_id("dlv"),
            webhook_id=webhook.id,
            event_id=event_id,
            type=event,
            body=body,
            tries_left=TRIES,
            next_attempt_at=now,
        )
        for webhook in webhooks
    ]
    session.add_all(deliveries)
    return deliveries


def _build_body(event: str, now: datetime, data: Mapping[str, Any]) -> str:
    """Return the message as JSON, in the form that Standard Webhooks proposes."""
    return json.dumps({"type": event, "timestamp": now.isoformat(), "data": dict(data)})
