"""Jobs and what belongs to them: stages, stage results, artifacts, events."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index
from sqlalchemy.orm import Mapped, mapped_column, relationship

from excise.names import JobStatus, StageStatus
from service.models.base import Base, CreatedAt, Leased


class Job(Leased, Base):
    """One request for work, its lease and its outcome."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(
            "status IN ('queued', 'running', 'succeeded', 'rejected', 'failed', 'cancelled')",
            name="status",
        ),
        CheckConstraint(
            "(verdict = 'passed') IS NOT DISTINCT FROM"
            " (CASE WHEN status = 'succeeded' THEN true"
            " WHEN status = 'rejected' THEN false END)",
            name="status_agrees_with_verdict",
        ),
        Index("ix_jobs_tenant_number", "tenant_id", "number"),
        Index("ix_jobs_open", "status", postgresql_where="status IN ('queued', 'running')"),
        Index("ix_jobs_api_key_status", "api_key_id", "status"),
        Index("ix_jobs_publish_to", "id", postgresql_where="publish_to IS NOT NULL"),
    )

    number: Mapped[int] = mapped_column(Identity(always=True), unique=True)
    """Order of arrival; what paging goes by."""
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    kind: Mapped[str]
    model: Mapped[str]
    spec: Mapped[dict[str, Any]]
    user_metadata: Mapped[dict[str, str]] = mapped_column("metadata")
    status: Mapped[str] = mapped_column(default=JobStatus.QUEUED)
    verdict: Mapped[str | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    queued_at: Mapped[CreatedAt]
    """When it last became `queued`."""
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    estimated_finish: Mapped[datetime | None]
    estimate: Mapped[dict[str, Any] | None]
    """What it needs, a `JobEstimate`: first estimated at submission, then by its worker."""
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    publish_to: Mapped[str | None]
    """The alias to which it is published if it passes; emptied once that is done."""

    stages: Mapped[list[Stage]] = relationship(order_by="Stage.position", lazy="raise_on_sql")
    artifacts: Mapped[list[JobArtifact]] = relationship(
        order_by="JobArtifact.name", lazy="raise_on_sql"
    )

    def find_artifact(self, name: str) -> str | None:
        """Return the hash of this job's artifact with this name, or None."""
        return next((found.sha256 for found in self.artifacts if found.name == name), None)


class Stage(Base):
    """One step of a job and how far it has come."""

    __tablename__ = "stages"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]
    status: Mapped[str] = mapped_column(default=StageStatus.PENDING)
    done: Mapped[int] = mapped_column(default=0)
    total: Mapped[int | None]
    message: Mapped[str | None]
    estimated_finish: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class StageResult(Base):
    """The artifact a stage produced from the inputs its key was derived from."""

    __tablename__ = "stage_results"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str]
    created_at: Mapped[CreatedAt]


class JobArtifact(Base):
    """One file a job gives to its owner, by name."""

    __tablename__ = "job_artifacts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str]
    bytes: Mapped[int]
    media_type: Mapped[str]
    created_at: Mapped[CreatedAt]


class Event(Base):
    """Something that happened to a job.

    Whoever adds one holds the job's row lock, so ids of one job become visible in order
    and a stream that remembers the last id misses nothing.
    """

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_job_id_id", "job_id", "id"),)

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    type: Mapped[str]
    level: Mapped[str]
    message: Mapped[str]
    data: Mapped[dict[str, Any]]
    created_at: Mapped[CreatedAt]
