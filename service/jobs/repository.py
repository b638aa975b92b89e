"""All queries that the API makes about jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, Row, Text, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import Session, selectinload

from excise.names import OPEN_STATUSES, StageStatus
from service.listing import page_back
from service.models import (
    Event,
    IdempotencyKey,
    Job,
    JobArtifact,
    ModelVersion,
    PromptSet,
    Stage,
)

_WITH_PARTS = (selectinload(Job.stages), selectinload(Job.artifacts))
_RUNNING_STAGE = (
    select(Stage.name)
    .where(Stage.job_id == Job.id, Stage.status == StageStatus.RUNNING)
    .order_by(Stage.position)
    .limit(1)
    .scalar_subquery()
)
_SUMMARY = (
    *(Job.id, Job.kind, Job.status, Job.verdict, Job.model, Job.created_at, Job.started_at),
    *(Job.finished_at, Job.cancel_requested, Job.error_code, _RUNNING_STAGE.label("stage")),
)
"""The columns of a `JobSummary`; none of them holds long values."""


def find_job(session: Session, tenant_id: str, job_id: str, *, lock: bool = False) -> Job | None:
    """Return the tenant's job with stages and artifacts, freshly read from the database."""
    statement = select(Job).where(Job.tenant_id == tenant_id, Job.id == job_id)
    if lock:
        statement = statement.with_for_update()
    options = {"populate_existing": True}
    return session.scalars(statement.options(*_WITH_PARTS), execution_options=options).one_or_none()


def find_number(session: Session, tenant_id: str, job_id: str) -> int | None:
    """Return the position of the tenant's job in the order of arrival."""
    statement = select(Job.number).where(Job.tenant_id == tenant_id, Job.id == job_id)
    return session.execute(statement).scalar_one_or_none()


def list_page(
    session: Session, tenant_id: str, before_number: int | None, limit: int
) -> Sequence[Row[Any]]:
    """Return up to `limit` of the tenant's jobs that arrived before that one, newest first."""
    statement = select(*_SUMMARY).where(Job.tenant_id == tenant_id)
    return session.execute(page_back(statement, Job.number, before_number, limit)).all()


def count_open_jobs(session: Session, key_id: str) -> int:
    """Return how many queued and running jobs an API key has."""
    statement = select(func.count(Job.id)).where(
        Job.api_key_id == key_id, Job.status.in_(OPEN_STATUSES)
    )
    return session.execute(statement).scalar_one()


def has_version(session: Session, job_id: str) -> bool:
    """Return whether the job was ever published."""
    statement = select(ModelVersion.id).where(ModelVersion.job_id == job_id)
    return session.scalar(statement.limit(1)) is not None


def insert_job(session: Session, job: Job, stages: Sequence[str]) -> None:
    """Store a job and its stages."""
    session.add(job)
    session.flush()
    for position, name in enumerate(stages):
        session.add(Stage(job_id=job.id, name=name, position=position))
    session.flush()


def find_idempotency_key(session: Session, tenant_id: str, key: str) -> IdempotencyKey | None:
    """Return what the tenant's idempotency key was used for."""
    return session.get(IdempotencyKey, (tenant_id, key), populate_existing=True)


def reserve_idempotency_key(
    session: Session,
    tenant_id: str,
    key: str,
    request_sha256: str,
    job_id: str,
    version_id: str | None = None,
) -> bool:
    """Reserve the key; return whether it was free. Waits for a request that is reserving it."""
    statement = (
        insert(IdempotencyKey)
        .values(
            tenant_id=tenant_id,
            key=key,
            request_sha256=request_sha256,
            job_id=job_id,
            version_id=version_id,
        )
        .on_conflict_do_nothing()
        .returning(IdempotencyKey.key)
    )
    return session.execute(statement).one_or_none() is not None


def find_prompt_set_size(
    session: Session, tenant_id: str, prompt_set_id: str
) -> tuple[int, str] | None:
    """Return the size of the tenant's set in prompts or rows, and its format; None if not found."""
    statement = select(PromptSet.prompts, PromptSet.format).where(
        PromptSet.tenant_id == tenant_id, PromptSet.id == prompt_set_id
    )
    row = session.execute(statement).one_or_none()
    return None if row is None else (row.prompts, row.format)


def list_events(
    session: Session, job_id: str, after: int, limit: int, upto: int | None = None
) -> Sequence[Event]:
    """Return up to `limit` of a job's events with ids above the given one and up to `upto`.

    The oldest event comes first.
    """
    statement = select(Event).where(Event.job_id == job_id, Event.id > after)
    if upto is not None:
        statement = statement.where(Event.id <= upto)
    return session.scalars(statement.order_by(Event.id).limit(limit)).all()


def find_newest_event(session: Session, job_id: str) -> int:
    """Return the id of the job's newest event, or 0 if it has none."""
    statement = select(func.coalesce(func.max(Event.id), 0)).where(Event.job_id == job_id)
    return session.execute(statement).scalar_one()


def has_event(session: Session, job_id: str, event_type: str) -> bool:
    """Return whether the job has an event of this type."""
    statement = select(Event.id).where(Event.job_id == job_id, Event.type == event_type)
    return session.scalar(statement.limit(1)) is not None


def list_new_events(session: Session, after: Mapping[str, int], limit: int) -> Sequence[Event]:
    """Return up to `limit` newer events of the jobs, oldest first.

    For each job, only events with ids above the given one are new.
    """
    given = func.unnest(
        literal(list(after), ARRAY(Text)), literal(list(after.values()), ARRAY(BigInteger))
    ).table_valued("job_id", "after")
    watched = given.render_derived(name="watched")
    statement = select(Event).join(
        watched, (Event.job_id == watched.c.job_id) & (Event.id > watched.c.after)
    )
    return session.scalars(statement.order_by(Event.id).limit(limit)).all()


def find_statuses(session: Session, job_ids: Sequence[str]) -> dict[str, str]:
    """Return the status of each of the jobs that exists."""
    rows = session.execute(select(Job.id, Job.status).where(Job.id.in_(job_ids)))
    return {row.id: row.status for row in rows}


def load_jobs(session: Session, job_ids: Sequence[str]) -> Sequence[Job]:
    """Return those of the jobs that exist, with their stages and artifacts."""
    statement = select(Job).where(Job.id.in_(job_ids)).options(*_WITH_PARTS)
    return session.scalars(statement, execution_options={"populate_existing": True}).all()


def find_artifact(session: Session, job_id: str, name: str) -> JobArtifact | None:
    """Return the job's file with this name."""
    return session.get(JobArtifact, (job_id, name))
