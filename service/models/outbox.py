"""The outbox: messages to the broker, written with the change they announce."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Identity, Index
from sqlalchemy.orm import Mapped, mapped_column

from service.models.base import Base, CreatedAt


class OutboxMessage(Base):
    """One message: run this job, or one of its shards, or publish it.

    It is unsent while `sent_at` is empty.
    """

    __tablename__ = "outbox"
    __table_args__ = (
        Index("ix_outbox_unsent", "id", postgresql_where="sent_at IS NULL"),
        Index("ix_outbox_job_id", "job_id"),
        Index("ix_outbox_shard_id", "shard_id"),
        Index("ix_outbox_version_id", "version_id"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    shard_id: Mapped[str | None] = mapped_column(ForeignKey("shards.id", ondelete="CASCADE"))
    """The shard to run; empty when the message is about the job itself."""
    version_id: Mapped[str | None] = mapped_column(ForeignKey("model_versions.id"))
    """The version of the job to build; empty when the message is about something else."""
    traceparent: Mapped[str | None]
    """W3C trace context in which it was written; empty without tracing."""
    created_at: Mapped[CreatedAt]
    sent_at: Mapped[datetime | None]
