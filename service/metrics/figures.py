"""Figures from the database: one query each, each limited in rows and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Float, case, cast, extract, func, literal, select, text
from sqlalchemy.orm import Session

from excise.names import OPEN_STATUSES, JobStatus, VersionStatus
from service.models import (
    Job,
    JobArtifact,
    ModelVersion,
    OutboxMessage,
    PoolState,
    Shard,
    ShardStatus,
    Worker,
)

AGES: tuple[tuple[str, float], ...] = (
    ("5m", 300.0),
    ("1h", 3600.0),
    ("6h", 21_600.0),
    ("1d", 86_400.0),
)
"""Upper ends of the age classes, in seconds; anything older is `older`."""
OLDER = "older"
TENANTS = 20
"""Number of tenants with a series of their own; the others are summed up as `other`."""
_TIMEOUT = "2s"
"""Longest any of these queries may take; a scrape waits for ten seconds."""


@dataclass(frozen=True)
class JobCount:
    """Number of jobs of one kind and status and, for open jobs, of one age class."""

    kind: str
    status: str
    age: str
    count: int


@dataclass(frozen=True)
class QueueState:
    """The queue of one kind of work."""

    work: str
    waiting: int
    oldest_seconds: float


@dataclass(frozen=True)
class Figures:
    """All figures that are queried."""

    jobs: Sequence[JobCount]
    queues: Sequence[QueueState]
    outbox_unsent: int
    outbox_lag_seconds: float
    workers: dict[str, int]
    """`busy`, `idle` and `silent` workers."""
    versions: dict[str, int]
    pools: dict[str, str]
    """Status by pool."""
    artifact_bytes: dict[str, int]
    """Bytes by tenant, the largest first and the others together as `other`."""


def load_figures(session: Session, silent_seconds: float) -> Figures:
    """Return the current figures. Raises `OperationalError` if a query takes too long."""
    session.execute(text(f"SET LOCAL statement_timeout = '{_TIMEOUT}'"))
    unsent, lag = _load_outbox(session)
    return Figures(
        jobs=_count_jobs(session),
        queues=_load_queues(session),
        outbox_unsent=unsent,
        outbox_lag_seconds=lag,
        workers=_count_workers(session, silent_seconds),
        versions=_count_versions(session),
        pools=_load_pools(session),
        artifact_bytes=_sum_artifacts(session),
    )


def _seconds_since(column: ColumnElement[datetime]) -> ColumnElement[float]:
    """Return how long ago that was."""
    return cast(extract("epoch", func.clock_timestamp() - column), Float)


def _count_jobs(session: Session) -> list[JobCount]:
    """Return the jobs by kind, status and, if open, how long they have been queued or running."""
    since = case((Job.status == JobStatus.RUNNING, Job.started_at), else_=Job.queued_at)
    seconds = _seconds_since(since)
    classes = [(seconds <= limit, literal(name)) for name, limit in AGES]
    is_open = Job.status.in_(OPEN_STATUSES)
    age = case((~is_open, literal("")), *classes, else_=literal(OLDER)).label("age")
    statement = select(Job.kind, Job.status, age, func.count()).group_by(
        Job.kind, Job.status, text("age")
    )
    return [JobCount(*row) for row in session.execute(statement)]


def _load_queues(session: Session) -> list[QueueState]:
    """Return what waits for a worker: jobs, shards, versions to build."""
    waiting: tuple[tuple[str, ColumnElement[bool], ColumnElement[datetime]], ...] = (
        ("job", Job.status == JobStatus.QUEUED, Job.queued_at.expression),
        ("shard", Shard.status == ShardStatus.PENDING, Shard.pending_since.expression),
        ("version", ModelVersion.status == VersionStatus.QUEUED, ModelVersion.queued_at.expression),
    )
    states = []
    for work, condition, since in waiting:
        oldest = func.coalesce(func.max(_seconds_since(since)), 0.0)
        count, seconds = session.execute(select(func.count(), oldest).where(condition)).one()
        states.append(QueueState(work, count, seconds))
    return states


def _load_outbox(session: Session) -> tuple[int, float]:
    """Return the number of unsent messages, and the age of the oldest in seconds."""
    lag = func.coalesce(func.max(_seconds_since(OutboxMessage.created_at.expression)), 0.0)
    statement = select(func.count(), lag).where(OutboxMessage.sent_at.is_(None))
    count, seconds = session.execute(statement.select_from(OutboxMessage)).one()
    return count, seconds


def _count_workers(session: Session, silent_seconds: float) -> dict[str, int]:
    """Return the workers by what they do; silent ones of the last day only, as rows are kept."""
    silence = _seconds_since(Worker.heartbeat_at.expression)
    state = case(
        (silence > silent_seconds, literal("silent")),
        (Worker.busy_job_id.is_not(None), literal("busy")),
        else_=literal("idle"),
    ).label("state")
    statement = select(state, func.count()).where(silence < AGES[-1][1]).group_by(text("state"))
    found = {row[0]: row[1] for row in session.execute(statement)}
    return {"busy": 0, "idle": 0, "silent": 0, **found}


def _count_versions(session: Session) -> dict[str, int]:
    """Return the versions by status, with every status."""
    statement = select(ModelVersion.status, func.count()).group_by(ModelVersion.status)
    found = {row[0]: row[1] for row in session.execute(statement)}
    return {status.value: found.get(status.value, 0) for status in VersionStatus}


def _load_pools(session: Session) -> dict[str, str]:
    """Return the last observed status of each serving pool."""
    return {pool.name: pool.status for pool in session.scalars(select(PoolState))}


def _sum_artifacts(session: Session) -> dict[str, int]:
    """Return the bytes of jobs' files by tenant: the largest by name, the others together."""
    size = func.sum(JobArtifact.bytes)
    statement = (
        select(Job.tenant_id, size)
        .join(JobArtifact, JobArtifact.job_id == Job.id)
        .group_by(Job.tenant_id)
        .order_by(size.desc(), Job.tenant_id)
    )
    found = [(tenant, int(total)) for tenant, total in session.execute(statement)]
    named = dict(found[:TENANTS])
    rest = sum(total for _, total in found[TENANTS:])
    return {**named, **({"other": rest} if rest else {})}
