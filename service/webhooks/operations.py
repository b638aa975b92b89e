"""The rules of webhooks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from pydantic import SecretStr
from sqlalchemy.orm import Session

from excise.names import DeliveryStatus, WebhookStatus
from excise.outgoing.endpoints import OutgoingError, parse_endpoint, resolve_endpoint
from excise.resources.webhooks import WebhookChange, WebhookRequest
from service.audit.recording import record
from service.database import fetch_now
from service.errors import ConflictError, InvalidRequestError
from service.listing import Noun, cut_page
from service.models import Webhook, WebhookDelivery, new_id
from service.tenants.operations import lock_tenant
from service.webhooks import repository
from service.webhooks.messages import ping
from service.webhooks.retries import TRIES
from service.webhooks.signing import make_secret

MAX_WEBHOOKS = 20
"""Largest number of webhooks per tenant. Chosen by hand."""

SECRET_OVERLAP = timedelta(hours=24)
"""After a rotation, messages are also signed with the previous secret for this long."""

_WEBHOOK = Noun("webhook", "GET /v1/webhooks", re.compile(r"wh_[0-9a-f]{24}"))
_DELIVERY = Noun("delivery", "the webhook's deliveries", re.compile(r"dlv_[0-9a-f]{24}"))


def check_url(url: str, allowed_hosts: Sequence[str]) -> None:
    """Raise `InvalidRequestError` for a URL that may not be posted to. Looks up its name."""
    try:
        resolve_endpoint(parse_endpoint(url), allowed_hosts)
    except OutgoingError as error:
        raise InvalidRequestError(f"url: {error}", param="url") from error


def create_webhook(
    session: Session, tenant_id: str, request: WebhookRequest
) -> tuple[Webhook, SecretStr]:
    """Return a new webhook and its secret. Raises `ConflictError` if the tenant has too many."""
    lock_tenant(session, tenant_id)
    if repository.count_webhooks(session, tenant_id) >= MAX_WEBHOOKS:
        raise ConflictError(f"There are {MAX_WEBHOOKS} webhooks, which is the limit. Delete one.")
    secret = make_secret()
    webhook = Webhook(
        id=new_id("wh"),
        tenant_id=tenant_id,
        url=request.url,
        description=request.description,
        events=[event.value for event in request.events],
        secret=secret,
    )
    session.add(webhook)
    record(session, tenant_id, "webhook.create", webhook.id, {"events": webhook.events})
    session.flush()
    return webhook, secret


def get_webhook(
    session: Session, tenant_id: str, webhook_id: str, *, lock: bool = False, keep: bool = False
) -> Webhook:
    """Return the tenant's webhook with this id. Raises `NotFoundError`."""
    return _WEBHOOK.get(
        webhook_id,
        lambda own: repository.find_webhook(session, tenant_id, own, lock=lock, keep=keep),
    )


def list_webhooks(
    session: Session, tenant_id: str, after: str | None, limit: int
) -> tuple[Sequence[Webhook], bool]:
    """Return one page of the tenant's webhooks, newest first, and whether there are more."""
    last = _WEBHOOK.get_last(after, lambda own: repository.find_webhook(session, tenant_id, own))
    number = None if last is None else last.number
    return cut_page(repository.list_webhooks(session, tenant_id, number, limit + 1), limit)


def change_webhook(
    session: Session, tenant_id: str, webhook_id: str, change: WebhookChange
) -> Webhook:
    """Change the webhook. If enabled again, it receives events from now on.

    Failures count for the address at which they happened: a new one starts afresh. What changes
    nothing is not recorded.
    """
    webhook = get_webhook(session, tenant_id, webhook_id, lock=True)
    if not (changed := _list_changed(webhook, change)):
        return webhook
    record(session, tenant_id, "webhook.change", webhook_id, {"changed": changed})
    if change.url is not None and change.url != webhook.url:
        webhook.url, webhook.failing_since = change.url, None
    if change.events is not None:
        webhook.events = [event.value for event in change.events]
    if change.description is not None:
        webhook.description = change.description
    if change.status is WebhookStatus.DISABLED and webhook.status != change.status:
        disable(session, webhook, "It was switched off.")
    elif change.status is WebhookStatus.ENABLED:
        webhook.status, webhook.status_reason = WebhookStatus.ENABLED, None
        webhook.failing_since = None
    session.flush()
    return webhook


def disable(session: Session, webhook: Webhook, reason: str) -> None:
    """Disable the webhook; its pending messages count as failed."""
    webhook.status, webhook.status_reason = WebhookStatus.DISABLED, reason
    session.flush()
    repository.give_up_pending(session, webhook.id)


def delete_webhook(session: Session, tenant_id: str, webhook_id: str) -> None:
    """Delete the webhook and its deliveries. Raises `NotFoundError`."""
    session.delete(get_webhook(session, tenant_id, webhook_id, lock=True))
    record(session, tenant_id, "webhook.delete", webhook_id)


def rotate_secret(session: Session, tenant_id: str, webhook_id: str) -> tuple[Webhook, SecretStr]:
    """Give the webhook a new secret; for `SECRET_OVERLAP`, the old one signs as well."""
    webhook = get_webhook(session, tenant_id, webhook_id, lock=True)
    secret = make_secret()
    webhook.previous_secret, webhook.secret = webhook.secret, secret
    webhook.previous_secret_until = fetch_now(session) + SECRET_OVERLAP
    record(session, tenant_id, "webhook.rotate", webhook_id)
    session.flush()
    return webhook, secret


def send_ping(session: Session, tenant_id: str, webhook_id: str) -> WebhookDelivery:
    """Write a test message to the webhook. Raises `ConflictError`."""
    webhook = get_webhook(session, tenant_id, webhook_id, keep=True)
    _require_enabled(webhook)
    delivery = ping(session, webhook)
    session.flush()
    return delivery


def list_deliveries(
    session: Session, tenant_id: str, webhook_id: str, after: str | None, limit: int
) -> tuple[Sequence[WebhookDelivery], bool]:
    """Return one page of the webhook's deliveries, newest first, and whether there are more."""
    webhook = get_webhook(session, tenant_id, webhook_id)
    last = _DELIVERY.get_last(after, lambda own: repository.find_delivery(session, webhook.id, own))
    number = None if last is None else last.number
    return cut_page(repository.list_deliveries(session, webhook.id, number, limit + 1), limit)


def retry_delivery(
    session: Session, tenant_id: str, webhook_id: str, delivery_id: str
) -> WebhookDelivery:
    """Schedule the delivery to be sent again now, with all its attempts.

    Raises `NotFoundError`, and `ConflictError` while the webhook is disabled.
    """
    webhook = get_webhook(session, tenant_id, webhook_id, keep=True)
    _require_enabled(webhook)
    delivery = _get_delivery(session, webhook, delivery_id)
    now = fetch_now(session)  # a query writes what was changed before it, and half is not allowed
    delivery.status, delivery.ended_at = DeliveryStatus.PENDING, None
    delivery.tries_left, delivery.next_attempt_at = TRIES, now
    session.flush()
    return delivery


def list_signers(webhook: Webhook, now: datetime) -> list[SecretStr]:
    """Return the secrets that sign at `now`: the webhook's, and for a while the previous one."""
    signers = [webhook.secret]
    until = webhook.previous_secret_until
    if webhook.previous_secret is not None and until is not None and now < until:
        signers.append(webhook.previous_secret)
    return signers


def _list_changed(webhook: Webhook, change: WebhookChange) -> list[str]:
    """Return the fields that would have another value, and `status` where failures are forgiven."""
    wanted = change.model_dump(mode="json", exclude_none=True)
    changed = [name for name, value in wanted.items() if getattr(webhook, name) != value]
    if wanted.get("status") == WebhookStatus.ENABLED and webhook.failing_since is not None:
        changed.append("status")
    return sorted(set(changed))


def _get_delivery(session: Session, webhook: Webhook, delivery_id: str) -> WebhookDelivery:
    """Return the webhook's delivery with this id, locked. Raises `NotFoundError`."""
    return _DELIVERY.get(
        delivery_id, lambda own: repository.find_delivery(session, webhook.id, own, lock=True)
    )


def _require_enabled(webhook: Webhook) -> None:
    if webhook.status != WebhookStatus.ENABLED:
        raise ConflictError("The webhook is disabled. Enable it first.")
