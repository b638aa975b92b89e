"""Webhooks and their messages: an outbox of its own, written in the transaction it reports."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import SecretStr
from sqlalchemy import CheckConstraint, Dialect, ForeignKey, Identity, Index, Text, TypeDecorator
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from excise.names import DeliveryStatus, WebhookStatus
from service.models.base import Base, CreatedAt


class Secret(TypeDecorator[SecretStr]):
    """A secret text, masked in messages; stored in plain text because signing needs it."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: SecretStr | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Return the text for the database."""
        return None if value is None else value.get_secret_value()

    def process_result_value(self, value: str | None, dialect: Dialect) -> SecretStr | None:  # noqa: ARG002
        """Return the text from the database, masked."""
        return None if value is None else SecretStr(value)


class Webhook(Base):
    """One address that is notified about a tenant's jobs and versions."""

    __tablename__ = "webhooks"
    __table_args__ = (
        CheckConstraint("status IN ('enabled', 'disabled')", name="status"),
        Index("ix_webhooks_tenant_number", "tenant_id", "number"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(Identity(always=True), unique=True)
    """Order of arrival; what paging goes by."""
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    url: Mapped[str]
    description: Mapped[str] = mapped_column(default="")
    events: Mapped[list[str]] = mapped_column(ARRAY(Text))
    status: Mapped[str] = mapped_column(default=WebhookStatus.ENABLED)
    status_reason: Mapped[str | None]
    secret: Mapped[SecretStr] = mapped_column(Secret)
    previous_secret: Mapped[SecretStr | None] = mapped_column(Secret)
    previous_secret_until: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]
    """When attempts began to fail; cleared by a successful one."""
    busy_until: Mapped[datetime | None]
    """Until when a process may be posting a message to it, one at a time; if in the past, the end
    of the last post."""
    created_at: Mapped[CreatedAt]


class WebhookDelivery(Base):
    """One message to one webhook."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint("status IN ('pending', 'delivered', 'failed')", name="status"),
        CheckConstraint(
            "(status = 'pending') = (next_attempt_at IS NOT NULL)", name="pending_has_next"
        ),
        Index("ix_webhook_deliveries_webhook_number", "webhook_id", "number"),
        Index(
            "ix_webhook_deliveries_due",
            "webhook_id",
            "next_attempt_at",
            postgresql_where="status = 'pending'",
        ),
        Index("ix_webhook_deliveries_ended_at", "ended_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(Identity(always=True), unique=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    event_id: Mapped[str]
    """The same for all webhooks that are notified of the same event."""
    type: Mapped[str]
    body: Mapped[str]
    """The JSON text that is signed, byte for byte."""
    status: Mapped[str] = mapped_column(default=DeliveryStatus.PENDING)
    attempts: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, default=list)
    """The result of each attempt."""
    tries_left: Mapped[int]
    next_attempt_at: Mapped[datetime | None]
    created_at: Mapped[CreatedAt]
    ended_at: Mapped[datetime | None]
