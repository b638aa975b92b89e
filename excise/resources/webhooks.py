"""Webhooks and deliveries on the wire. A secret appears only in the response that created it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from excise.names import DeliveryStatus, WebhookEvent, WebhookStatus
from excise.specs.common import OneOf, Storable, check_distinct

MAX_EVENTS = len(WebhookEvent)

WebhookUrl = Annotated[
    str, Field(min_length=10, max_length=2048, pattern=r"^https?://[\x21-\x7e]+$")
]
Description = Annotated[str, Field(max_length=200), Storable]
Events = Annotated[
    list[OneOf[WebhookEvent]],
    Field(min_length=1, max_length=MAX_EVENTS, fail_fast=True),
    AfterValidator(check_distinct),
]


class _Request(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


class WebhookRequest(_Request):
    """A new webhook: the URL that messages are posted to, and the events they are about."""

    url: WebhookUrl
    """A public https URL, without user, query and fragment."""
    events: Events = Field(default_factory=lambda: list(WebhookEvent))
    """The events it receives; all by default."""
    description: Description = ""


class WebhookChange(_Request):
    """Changes to a webhook; absent fields stay as they are."""

    url: WebhookUrl | None = None
    events: Events | None = None
    description: Description | None = None
    status: OneOf[WebhookStatus] | None = None


class WebhookView(BaseModel):
    """One webhook, without its secret."""

    id: str
    object: Literal["webhook"] = "webhook"
    url: str
    events: list[WebhookEvent]
    description: str
    status: WebhookStatus
    status_reason: str | None
    """Why it is disabled."""
    failing_since: datetime | None
    """When it last began to fail; null if its latest attempt succeeded."""
    previous_secret_until: datetime | None
    """Until then, messages are also signed with the previous secret."""
    created_at: datetime


class NewWebhookView(WebhookView):
    """A webhook with a new secret, which is shown only this once."""

    secret: str


class WebhookList(BaseModel):
    """One page of webhooks, newest first."""

    object: Literal["list"] = "list"
    data: list[WebhookView]
    has_more: bool


class AttemptView(BaseModel):
    """One attempt to deliver a message."""

    at: datetime
    status_code: int | None
    """Status of the receiver's response; null if there was none."""
    error: str | None
    """Why the attempt failed; null if it succeeded."""
    milliseconds: int


class DeliveryView(BaseModel):
    """One message to one webhook, and every attempt to deliver it."""

    id: str
    object: Literal["webhook.delivery"] = "webhook.delivery"
    webhook: str
    event: str
    """Id of the message, as in the header `webhook-id`; the same for all attempts."""
    type: WebhookEvent
    status: DeliveryStatus
    body: str
    """The body that is sent and signed."""
    attempts: list[AttemptView]
    next_attempt_at: datetime | None
    created_at: datetime
    ended_at: datetime | None


class DeliveryList(BaseModel):
    """One page of deliveries, newest first."""

    object: Literal["list"] = "list"
    data: list[DeliveryView]
    has_more: bool
