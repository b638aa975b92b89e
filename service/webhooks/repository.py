"""All queries about webhooks and deliveries.

Writing messages locks the webhooks against deletion (`FOR KEY SHARE`); changing a webhook does not
block that (`FOR NO KEY UPDATE`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.orm import Session

from excise.names import DeliveryStatus, WebhookStatus
from service.listing import page_back
from service.models import Webhook, WebhookDelivery

_IS_DUE = (WebhookDelivery.status == DeliveryStatus.PENDING) & (
    WebhookDelivery.next_attempt_at <= func.clock_timestamp()
)


def count_webhooks(session: Session, tenant_id: str) -> int:
    """Return how many webhooks the tenant has."""
    statement = select(func.count(Webhook.id)).where(Webhook.tenant_id == tenant_id)
    return session.execute(statement).scalar_one()


def find_webhook(
    session: Session,
    tenant_id: str,
    webhook_id: str,
    *,
    lock: bool = False,
    keep: bool = False,
) -> Webhook | None:
    """Return the tenant's webhook with this id; `keep` locks it against deletion only."""
    statement = select(Webhook).where(Webhook.tenant_id == tenant_id, Webhook.id == webhook_id)
    if lock:
        statement = statement.with_for_update(key_share=True)
    elif keep:
        statement = statement.with_for_update(read=True, key_share=True)
    return session.scalars(statement).one_or_none()


def list_webhooks(
    session: Session, tenant_id: str, before: int | None, limit: int
) -> Sequence[Webhook]:
    """Return the tenant's webhooks numbered below `before`, newest first."""
    statement = select(Webhook).where(Webhook.tenant_id == tenant_id)
    return session.scalars(page_back(statement, Webhook.number, before, limit)).all()


def find_delivery(
    session: Session, webhook_id: str, delivery_id: str, *, lock: bool = False
) -> WebhookDelivery | None:
    """Return the webhook's delivery with this id."""
    statement = select(WebhookDelivery).where(
        WebhookDelivery.webhook_id == webhook_id, WebhookDelivery.id == delivery_id
    )
    if lock:
        statement = statement.with_for_update()
    return session.scalars(statement).one_or_none()


def list_deliveries(
    session: Session, webhook_id: str, before: int | None, limit: int
) -> Sequence[WebhookDelivery]:
    """Return the webhook's deliveries numbered below `before`, newest first."""
    statement = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id)
    return session.scalars(page_back(statement, WebhookDelivery.number, before, limit)).all()


def claim_webhooks(
    session: Session, limit: int, seconds: float, busy: Mapping[str, int], of_tenant: int
) -> Sequence[Webhook]:
    """Return enabled webhooks with a due message, marked as busy for `seconds`.

    Each webhook gets one message at a time, from whichever process, so that a slow one delays no
    other. Locked ones are skipped. A tenant has at most `of_tenant` at a time, counting those in
    `busy`, so that its slow webhooks delay no other tenant.
    """
    full = [tenant_id for tenant_id, count in busy.items() if count >= of_tenant]
    now = func.clock_timestamp()
    statement = (
        select(Webhook)
        .where(
            Webhook.status == WebhookStatus.ENABLED,
            Webhook.tenant_id.not_in(full),
            Webhook.busy_until.is_(None) | (Webhook.busy_until < now),
            exists().where(WebhookDelivery.webhook_id == Webhook.id, _IS_DUE),
        )
        .order_by(Webhook.busy_until.asc().nulls_first(), Webhook.number)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
    )
    taken, webhooks = Counter(busy), []
    for webhook in session.scalars(statement).all():
        if taken[webhook.tenant_id] < of_tenant:
            taken[webhook.tenant_id] += 1
            webhook.busy_until = now + timedelta(seconds=seconds)
            webhooks.append(webhook)
    return webhooks


def find_due(session: Session, webhook_id: str) -> WebhookDelivery | None:
    """Return the webhook's message that has been due for the longest time."""
    statement = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id, _IS_DUE)
    order = (WebhookDelivery.next_attempt_at, WebhookDelivery.number)
    return session.scalars(statement.order_by(*order).limit(1)).one_or_none()


def lock_webhook(session: Session, webhook_id: str) -> Webhook | None:
    """Return the webhook, whichever tenant owns it, locked."""
    statement = select(Webhook).where(Webhook.id == webhook_id)
    return session.scalars(statement.with_for_update(key_share=True)).one_or_none()


def give_up_pending(session: Session, webhook_id: str) -> None:
    """Mark the webhook's pending messages as failed."""
    session.execute(
        update(WebhookDelivery)
        .where(
            WebhookDelivery.webhook_id == webhook_id,
            WebhookDelivery.status == DeliveryStatus.PENDING,
        )
        .values(status=DeliveryStatus.FAILED, next_attempt_at=None, ended_at=func.clock_timestamp())
    )


def delete_ended(session: Session, days: int) -> None:
    """Delete deliveries that ended more than `days` days ago, except those that others have locked.

    Deliveries are locked while their webhook is deleted; waiting for several could be a deadlock.
    """
    old = select(WebhookDelivery.id).where(
        WebhookDelivery.ended_at < func.clock_timestamp() - timedelta(days=days)
    )
    unlocked = old.with_for_update(skip_locked=True)
    session.execute(delete(WebhookDelivery).where(WebhookDelivery.id.in_(unlocked)))
