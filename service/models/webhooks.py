"""Webhooks, and the messages to them: an outbox of its own, written with what it tells of."""

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
    """A text that shows itself in no message: signing needs it as it is, so no hash will do."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: SecretStr | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """The text for the database."""
        return None if value is None else value.get_secret_value()

    def process_result_value(self, value: str | None, dialect: Dialect) -> SecretStr | None:  # noqa: ARG002
        """The text from the database, covered."""
        return None if value is None else SecretStr(value)


class Webhook(Base):
    """One address that is told of what happens to a tenant's jobs and versions."""

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
    """When attempts began to fail; emptied by one that goes well."""
    busy_until: Mapped[datetime | None]
    """Until when a process may be posting to it, one message at a time; in the past, when one
    last did."""
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
    """The same for every webhook that is told of the same thing."""
    type: Mapped[str]
    body: Mapped[str]
    """JSON, byte for byte as it is signed."""
    status: Mapped[str] = mapped_column(default=DeliveryStatus.PENDING)
    attempts: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, default=list)
    """What came of each."""
    tries_left: Mapped[int]
    next_attempt_at: Mapped[datetime | None]
    created_at: Mapped[CreatedAt]
    ended_at: Mapped[datetime | None]
