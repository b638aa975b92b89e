"""Webhooks and their deliveries on the wire. A secret appears once, in the answer that made it."""

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
    Field(min_length=1, max_length=MAX_EVENTS),
    AfterValidator(check_distinct),
]


class _Request(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


class WebhookRequest(_Request):
    """Where messages go, and about what."""

    url: WebhookUrl
    """An https address on the open internet, without user, query and fragment."""
    events: Events = Field(default_factory=lambda: list(WebhookEvent))
    """What it is told of; everything, by default."""
    description: Description = ""


class WebhookChange(_Request):
    """What is to be different about a webhook; what is absent stays."""

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
    """When it last began to fail; null where its latest attempt went well."""
    previous_secret_until: datetime | None
    """Until when messages are signed with the secret before, too."""
    created_at: datetime


class NewWebhookView(WebhookView):
    """A webhook with a secret that was just made; it is shown this once."""

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
    """What the receiver answered; null where it did not."""
    error: str | None
    """Why it did not count; null where it did."""
    milliseconds: int


class DeliveryView(BaseModel):
    """One message to one webhook, and every attempt to deliver it."""

    id: str
    object: Literal["webhook.delivery"] = "webhook.delivery"
    webhook: str
    event: str
    """Id of the message, in the header `webhook-id`; the same however often it is sent."""
    type: WebhookEvent
    status: DeliveryStatus
    body: str
    """What is sent and signed."""
    attempts: list[AttemptView]
    next_attempt_at: datetime | None
    created_at: datetime
    ended_at: datetime | None


class DeliveryList(BaseModel):
    """One page of deliveries, newest first."""

    object: Literal["list"] = "list"
    data: list[DeliveryView]
    has_more: bool
