"""`/v1/webhooks`: a tenant's admins choose receivers and events, and see the deliveries."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from starlette.concurrency import run_in_threadpool

from excise.resources.webhooks import (
    DeliveryList,
    DeliveryView,
    NewWebhookView,
    WebhookChange,
    WebhookList,
    WebhookRequest,
    WebhookView,
)
from service.context import Context
from service.keys.authentication import Admin
from service.paging import Paging
from service.shown_once import SHOWN_ONCE
from service.strict_bodies import StrictJsonRoute
from service.webhooks import operations
from service.webhooks.views import view_delivery, view_new_webhook, view_webhook

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=StrictJsonRoute)

_DISABLED: dict[str, Any] = {"description": "The webhook is disabled"}


@router.post(
    "",
    status_code=201,
    dependencies=[SHOWN_ONCE],
    responses={409: {"description": "The limit on webhooks is reached"}},
)
async def create_webhook(
    request: WebhookRequest, context: Context, admin: Admin, response: Response
) -> NewWebhookView:
    """Create a webhook; its secret is shown only this once."""

    def create() -> NewWebhookView:
        with context.database.transaction() as session:
            return view_new_webhook(*operations.create_webhook(session, admin.tenant_id, request))

    await context.url_checks.check(admin.tenant_id, request.url, context.settings.webhook_hosts)
    view = await run_in_threadpool(create)
    response.headers["Location"] = f"/v1/webhooks/{view.id}"
    return view


@router.get("", responses={404: {"description": "No such `after`"}})
def list_webhooks(context: Context, admin: Admin, page_request: Paging) -> WebhookList:
    """List one page of the tenant's webhooks, newest first."""
    after, limit = page_request.after, page_request.limit
    with context.database.transaction() as session:
        page, has_more = operations.list_webhooks(session, admin.tenant_id, after, limit)
        return WebhookList(data=[view_webhook(webhook) for webhook in page], has_more=has_more)


@router.get("/{webhook_id}")
def get_webhook(webhook_id: str, context: Context, admin: Admin) -> WebhookView:
    """Get one webhook."""
    with context.database.transaction() as session:
        return view_webhook(operations.get_webhook(session, admin.tenant_id, webhook_id))


@router.patch("/{webhook_id}")
async def change_webhook(
    webhook_id: str, change: WebhookChange, context: Context, admin: Admin
) -> WebhookView:
    """Change, disable or enable a webhook."""
    tenant_id = admin.tenant_id

    def apply() -> WebhookView:
        with context.database.transaction() as session:
            return view_webhook(operations.change_webhook(session, tenant_id, webhook_id, change))

    if change.url is not None:
        await context.url_checks.check(tenant_id, change.url, context.settings.webhook_hosts)
    return await run_in_threadpool(apply)


@router.delete("/{webhook_id}", status_code=204)
def delete_webhook(webhook_id: str, context: Context, admin: Admin) -> None:
    """Delete a webhook and its deliveries."""
    with context.database.transaction() as session:
        operations.delete_webhook(session, admin.tenant_id, webhook_id)


@router.post("/{webhook_id}/rotate", dependencies=[SHOWN_ONCE])
def rotate_secret(webhook_id: str, context: Context, admin: Admin) -> NewWebhookView:
    """Create a new secret, shown only this once; for a day, the old one signs as well."""
    with context.database.transaction() as session:
        return view_new_webhook(*operations.rotate_secret(session, admin.tenant_id, webhook_id))


@router.post("/{webhook_id}/ping", status_code=202, responses={409: _DISABLED})
def ping_webhook(webhook_id: str, context: Context, admin: Admin) -> DeliveryView:
    """Send a test message to the receiver."""
    with context.database.transaction() as session:
        return view_delivery(operations.send_ping(session, admin.tenant_id, webhook_id))


@router.get("/{webhook_id}/deliveries")
def list_deliveries(
    webhook_id: str, context: Context, admin: Admin, page_request: Paging
) -> DeliveryList:
    """List one page of a webhook's deliveries and their results, newest first."""
    after, limit = page_request.after, page_request.limit
    with context.database.transaction() as session:
        page, has_more = operations.list_deliveries(
            session, admin.tenant_id, webhook_id, after, limit
        )
        return DeliveryList(data=[view_delivery(one) for one in page], has_more=has_more)


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/retry",
    status_code=202,
    responses={409: _DISABLED},
)
def retry_delivery(
    webhook_id: str, delivery_id: str, context: Context, admin: Admin
) -> DeliveryView:
    """Send a message again, delivered or not."""
    with context.database.transaction() as session:
        return view_delivery(
            operations.retry_delivery(session, admin.tenant_id, webhook_id, delivery_id)
        )
