"""Every query the API makes about jobs."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, selectinload

from excise.names import OPEN_STATUSES
from service.models import Event, IdempotencyKey, Job, JobArtifact, PromptSet, Stage

_WITH_PARTS = (selectinload(Job.stages), selectinload(Job.artifacts))


def find_job(session: Session, tenant_id: str, job_id: str, *, lock: bool = False) -> Job | None:
    """The tenant's job with its stages and artifacts, as the database has it now."""
    statement = select(Job).where(Job.tenant_id == tenant_id, Job.id == job_id)
    if lock:
        statement = statement.with_for_update()
    options = {"populate_existing": True}
    return session.scalars(statement.options(*_WITH_PARTS), execution_options=options).one_or_none()


def list_page(
    session: Session, tenant_id: str, before_number: int | None, limit: int
) -> Sequence[Job]:
    """Up to `limit` of the tenant's jobs that arrived before that one, newest first."""
    statement = select(Job).where(Job.tenant_id == tenant_id)
    if before_number is not None:
        statement = statement.where(Job.number < before_number)
    statement = statement.order_by(Job.number.desc()).limit(limit)
    return session.scalars(statement.options(*_WITH_PARTS)).all()


def count_open_jobs(session: Session, key_id: str) -> int:
    """How many queued and running jobs an API key has."""
    statement = select(func.count(Job.id)).where(
        Job.api_key_id == key_id, Job.status.in_(OPEN_STATUSES)
    )
    return session.execute(statement).scalar_one()


def insert_job(session: Session, job: Job, stages: Sequence[str]) -> None:
    """Store a job and its stages."""
    session.add(job)
    session.flush()
    for position, name in enumerate(stages):
        session.add(Stage(job_id=job.id, name=name, position=position))
    session.flush()


def find_idempotency_key(session: Session, tenant_id: str, key: str) -> IdempotencyKey | None:
    """What the tenant's idempotency key stood for."""
    return session.get(IdempotencyKey, (tenant_id, key), populate_existing=True)


def reserve_idempotency_key(
    session: Session,
    tenant_id: str,
    key: str,
    request_sha256: str,
    job_id: str,
    version_id: str | None = None,
) -> bool:
    """Take the key for what it made; whether it was free. Waits for a request that is taking it."""
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
    """How many prompts or rows the tenant's set has, and its format; None without such a set."""
    statement = select(PromptSet.prompts, PromptSet.format).where(
        PromptSet.tenant_id == tenant_id, PromptSet.id == prompt_set_id
    )
    row = session.execute(statement).one_or_none()
    return None if row is None else (row.prompts, row.format)


def list_events(session: Session, job_id: str, after: int, limit: int) -> Sequence[Event]:
    """Up to `limit` of a job's events with larger ids, oldest first."""
    statement = select(Event).where(Event.job_id == job_id, Event.id > after)
    return session.scalars(statement.order_by(Event.id).limit(limit)).all()


def find_artifact(session: Session, job_id: str, name: str) -> JobArtifact | None:
    """The job's file of that name."""
    return session.get(JobArtifact, (job_id, name))
