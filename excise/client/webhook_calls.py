"""Requests to the REST API about webhooks, and how their answers are read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

import httpx

from excise.client.calls import Call, get, page, parse_answer, post
from excise.resources.webhooks import (
    DeliveryList,
    DeliveryView,
    NewWebhookView,
    WebhookList,
    WebhookView,
)


def create_webhook(
    url: str, events: Sequence[str] | None, description: str
) -> Call[NewWebhookView]:
    """Create a webhook. Not repeatable: sent twice, it would create two."""
    body: dict[str, Any] = {"url": url, "description": description}
    if events is not None:
        body["events"] = list(events)
    return post(NewWebhookView, "/v1/webhooks", body, is_repeatable=False)


def list_webhooks(after: str | None, limit: int) -> Call[WebhookList]:
    """Get one page of webhooks, newest first."""
    return page(WebhookList, "/v1/webhooks", after, limit)


def change_webhook(webhook_id: str, changes: dict[str, Any]) -> Call[WebhookView]:
    """Change the given fields and leave the others."""
    parse = partial(parse_answer, WebhookView)
    return Call("PATCH", _build_path(webhook_id), parse, {"json": changes})


def delete_webhook(webhook_id: str) -> Call[None]:
    """Delete a webhook."""
    return Call("DELETE", _build_path(webhook_id), _parse_nothing, is_repeatable=False)


def rotate_webhook_secret(webhook_id: str) -> Call[NewWebhookView]:
    """Create a new secret. Not repeatable: sent twice, the first secret would be lost."""
    return post(NewWebhookView, f"{_build_path(webhook_id)}/rotate", is_repeatable=False)


def ping_webhook(webhook_id: str) -> Call[DeliveryView]:
    """Send a test message to the receiver."""
    return post(DeliveryView, f"{_build_path(webhook_id)}/ping", is_repeatable=False)


def list_deliveries(webhook_id: str, after: str | None, limit: int) -> Call[DeliveryList]:
    """Get one page of a webhook's deliveries, newest first."""
    return page(DeliveryList, f"{_build_path(webhook_id)}/deliveries", after, limit)


def retry_delivery(webhook_id: str, delivery_id: str) -> Call[DeliveryView]:
    """Send a message again."""
    path = f"{_build_path(webhook_id)}/deliveries/{quote(delivery_id, safe='')}/retry"
    return post(DeliveryView, path)


def get_webhook(webhook_id: str) -> Call[WebhookView]:
    """Get the current state of a webhook."""
    return get(WebhookView, _build_path(webhook_id))


def _build_path(webhook_id: str) -> str:
    return f"/v1/webhooks/{quote(webhook_id, safe='')}"


def _parse_nothing(response: httpx.Response) -> None:
    """Return nothing, because the answer has no body."""
