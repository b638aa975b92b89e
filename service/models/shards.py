"""Shards: the parts into which a stage's work is split, so that several workers can share it."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from service.models.base import Base, CreatedAt, Leased


class ShardStatus(StrEnum):
    """Status of a shard."""

    PENDING = "pending"
    """Waiting for a worker, for the first time or again."""
    RUNNING = "running"
    """Held by a worker through a lease."""
    SUCCEEDED = "succeeded"
    """Its result is stored."""


class Shard(Leased, Base):
    """One part of a stage of an unfinished job, its lease and its result.

    The rows join the parts: a stage is complete when all its shards have a result. They are removed
    when the job ends. Changing one requires the row lock of its job.
    """

    __tablename__ = "shards"
    __table_args__ = (
        CheckConstraint("status IN ('pending', 'running', 'succeeded')", name="status"),
        CheckConstraint(
            "(status = 'succeeded') = (result_sha256 IS NOT NULL)", name="status_agrees_with_result"
        ),
        UniqueConstraint("job_id", "stage", "key", "position"),
        Index("ix_shards_unfinished", "status", postgresql_where="status <> 'succeeded'"),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    stage: Mapped[str]
    key: Mapped[str]
    """The stage's key: a hash of everything its result depends on."""
    position: Mapped[int]
    """Position in the order in which the results are combined."""
    input_sha256: Mapped[str]
    """The artifact that is the stage's input."""
    status: Mapped[str] = mapped_column(default=ShardStatus.PENDING)
    result_sha256: Mapped[str | None]
    last_reason: Mapped[str | None]
    """Why the latest attempt ended early."""
    pending_since: Mapped[CreatedAt]
    lease_worker: Mapped[str | None]
    """The worker that holds the shard or stored its result."""
