"""Served models: versions, the aliases that point at them, events, and the state of pools."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from excise.names import VersionKind, VersionStatus
from service.models.base import Base, CreatedAt, Leased

WANTED_STATUSES = (VersionStatus.BUILT, VersionStatus.LIVE, VersionStatus.UNAVAILABLE)
"""Statuses of versions that belong on a server."""
CALLABLE_STATUSES = (VersionStatus.LIVE, VersionStatus.UNAVAILABLE)
"""Statuses of versions that applications may call: they answer, or did so and will again."""
ENDED_STATUSES = (VersionStatus.FAILED, VersionStatus.RETIRED)


class ModelVersion(Leased, Base):
    """One published correction: its files, its place on a server, and the lease of its builder."""

    __tablename__ = "model_versions"
    __table_args__ = (
        CheckConstraint(
            "status IN ('queued', 'building', 'built', 'live', 'unavailable', 'failed', 'retired')",
            name="status",
        ),
        CheckConstraint("kind IN ('adapter', 'checkpoint')", name="kind"),
        CheckConstraint("status <> 'live' OR served_name IS NOT NULL", name="live_has_served_name"),
        CheckConstraint(
            "verdict = 'passed' OR override_reason IS NOT NULL", name="override_is_recorded"
        ),
        UniqueConstraint("tenant_id", "id"),
        Index("ix_model_versions_tenant_number", "tenant_id", "number"),
        Index("ix_model_versions_pool_status", "pool", "status"),
        Index(
            "uq_model_versions_open_job",
            "job_id",
            unique=True,
            postgresql_where="status NOT IN ('failed', 'retired')",
        ),
    )

    number: Mapped[int] = mapped_column(Identity(always=True), unique=True)
    """Order of arrival; what paging goes by."""
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    kind: Mapped[str] = mapped_column(default=VersionKind.ADAPTER)
    """`adapter`, until its builder finds that only a whole checkpoint can hold it."""
    base_model: Mapped[str]
    pool: Mapped[str]
    """Name of the serving pool, see the settings."""
    max_rank: Mapped[int]
    """Largest adapter rank that the pool accepted when this was published."""
    verdict: Mapped[str]
    abilities: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """An `AbilitiesView` from the job's report; None if nothing is on record."""
    patch_sha256: Mapped[str]
    files: Mapped[dict[str, str]] = mapped_column(default=dict)
    """Artifact hash by file name; filled in by the builder."""
    canary_sha256: Mapped[str | None]
    rank: Mapped[int | None]
    status: Mapped[str] = mapped_column(default=VersionStatus.QUEUED)
    error_message: Mapped[str | None]
    override_reason: Mapped[str | None]
    override_by: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    target_alias: Mapped[str | None]
    """The alias that moves here once the first canary has passed."""
    served_name: Mapped[str | None]
    """Its name on its server; a new one each time it is loaded."""
    created_at: Mapped[CreatedAt]
    queued_at: Mapped[CreatedAt]
    """When it last became `queued`."""
    built_at: Mapped[datetime | None]
    live_at: Mapped[datetime | None]
    """When its canary last passed."""
    ended_at: Mapped[datetime | None]


class Alias(Base):
    """A name for applications to call; it points at one version, or splits between two."""

    __tablename__ = "aliases"
    __table_args__ = (
        *(
            ForeignKeyConstraint(
                ["tenant_id", column], ["model_versions.tenant_id", "model_versions.id"]
            )
            for column in ("version_id", "previous_version_id", "split_version_id")
        ),
        CheckConstraint(
            "(split_version_id IS NULL) = (split_percent IS NULL)", name="split_is_whole"
        ),
        CheckConstraint("split_percent BETWEEN 1 AND 99", name="split_percent"),
    )

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    version_id: Mapped[str]
    previous_version_id: Mapped[str | None]
    """The version to which a rollback leads."""
    split_version_id: Mapped[str | None]
    split_percent: Mapped[int | None]
    """Percentage of requests that go to `split_version_id`."""
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[CreatedAt]


class ServingEvent(Base):
    """Something that happened to a version or an alias: who, when, why, from where to where."""

    __tablename__ = "serving_events"
    __table_args__ = (
        Index("ix_serving_events_alias", "tenant_id", "alias", "id"),
        Index("ix_serving_events_version_id", "version_id", "id"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    kind: Mapped[str]
    alias: Mapped[str | None]
    version_id: Mapped[str | None] = mapped_column(ForeignKey("model_versions.id"))
    key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    """The key that caused it; empty if the service acted by itself."""
    from_version_id: Mapped[str | None]
    to_version_id: Mapped[str | None]
    reason: Mapped[str | None]
    message: Mapped[str]
    data: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[CreatedAt]


class PoolState(Base):
    """State of one serving pool, as the reconciler last saw it."""

    __tablename__ = "pool_states"
    __table_args__ = (CheckConstraint("status IN ('up', 'down', 'refused')", name="status"),)

    name: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str]
    """`refused`: it answers but is not usable for this service; `detail` says why."""
    detail: Mapped[str]
    server_version: Mapped[str | None]
    checked_at: Mapped[CreatedAt]
