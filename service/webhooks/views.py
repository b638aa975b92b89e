"""Conversion of webhook rows to API objects, without side effects or stored secrets."""

from __future__ import annotations

from pydantic import SecretStr

from excise.resources.webhooks import DeliveryView, NewWebhookView, WebhookView
from service.models import Webhook, WebhookDelivery


def view_webhook(webhook: Webhook) -> WebhookView:
    """Return the webhook object."""
    return WebhookView.model_validate(webhook, from_attributes=True)


def view_new_webhook(webhook: Webhook, secret: SecretStr) -> NewWebhookView:
    """Return the webhook object with its newly made secret."""
    shown = view_webhook(webhook).model_dump()
    return NewWebhookView(**shown, secret=secret.get_secret_value())


def view_delivery(delivery: WebhookDelivery) -> DeliveryView:
    """Return the delivery object."""
    return DeliveryView.model_validate(
        {
            "id": delivery.id,
            "webhook": delivery.webhook_id,
            "event": delivery.event_id,
            "type": delivery.type,
            "status": delivery.status,
            "body": delivery.body,
            "attempts": delivery.attempts,
            "next_attempt_at": delivery.next_attempt_at,
            "created_at": delivery.created_at,
            "ended_at": delivery.ended_at,
        }
    )
