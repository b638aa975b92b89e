"""Shards: the parts a stage's work is cut into, so that several workers may share it."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from service.models.base import Base, CreatedAt, Leased


class ShardStatus(StrEnum):
    """Where one shard is on its way."""

    PENDING = "pending"
    """Waiting for a worker, for the first time or again."""
    RUNNING = "running"
    """Held by a worker through a lease."""
    SUCCEEDED = "succeeded"
    """Its result is filed."""


class Shard(Leased, Base):
    """One part of a stage of an unfinished job, its lease and its result.

    The rows are the join of the parts: a stage is whole when all its shards have a result.
    They are removed when the job ends. Whoever changes one holds its job's row lock.
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
    """Place in the order in which the results are put together."""
    input_sha256: Mapped[str]
    """The artifact the stage works from."""
    status: Mapped[str] = mapped_column(default=ShardStatus.PENDING)
    result_sha256: Mapped[str | None]
    last_reason: Mapped[str | None]
    """Why the latest attempt ended early."""
    pending_since: Mapped[CreatedAt]
    lease_worker: Mapped[str | None]
    """Who holds the shard, or who filed its result."""
