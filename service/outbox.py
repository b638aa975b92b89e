"""The outbox: "run this job", or its shard, or publish it; written with the change, sent later."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import delete, exists, func, select
from sqlalchemy.orm import Session

from excise.names import OPEN_STATUSES, JobStatus, VersionStatus
from service.models import Job, ModelVersion, OutboxMessage, Shard, ShardStatus

JOB_TASK = "excise.run_job"
SHARD_TASK = "excise.run_shard"
PUBLISH_TASK = "excise.publish"

Publish = Callable[[str, str], None]
"""Sends a message: the task's name and the id it is about, nothing else."""

_KEEP_SENT = timedelta(days=1)


def enqueue(session: Session, job_id: str, shard_id: str | None = None) -> None:
    """Write the message for one job or one of its shards; it is sent after the commit."""
    session.add(OutboxMessage(job_id=job_id, shard_id=shard_id))


def enqueue_version(session: Session, version: ModelVersion) -> None:
    """Write the message for the builder of one version; it is sent after the commit."""
    session.add(OutboxMessage(job_id=version.job_id, version_id=version.id))


def send_unsent(session: Session, publish: Publish, limit: int = 100) -> int:
    """Publish unsent messages, oldest first, and return how many.

    Messages locked by another relay are passed over. They count as sent only when the transaction
    commits: a crash in between sends them again, which workers bear.
    """
    statement = (
        select(OutboxMessage)
        .where(OutboxMessage.sent_at.is_(None))
        .order_by(OutboxMessage.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    messages = session.scalars(statement).all()
    for message in messages:
        publish(*_address(message))
        message.sent_at = func.clock_timestamp()
    return len(messages)


def count_unsent(session: Session) -> int:
    """How many messages wait to be sent."""
    statement = select(func.count()).where(OutboxMessage.sent_at.is_(None))
    return session.execute(statement.select_from(OutboxMessage)).scalar_one()


def resend_queued(session: Session, unclaimed_seconds: float = 0.0) -> int:
    """Write a message for every queued job that has waited this long without one; return how many.

    A job with an unsent message, or one sent within that time, is left alone
    (with 0 seconds: only one with an unsent message).
    """
    since = func.clock_timestamp() - timedelta(seconds=unclaimed_seconds)
    recent = exists().where(
        OutboxMessage.job_id == Job.id,
        OutboxMessage.shard_id.is_(None),
        OutboxMessage.version_id.is_(None),
        OutboxMessage.sent_at.is_(None) | (OutboxMessage.sent_at > since),
    )
    statement = (
        select(Job.id)
        .where(Job.status == JobStatus.QUEUED, Job.queued_at <= since, ~recent)
        .order_by(Job.number)
        .with_for_update(skip_locked=True)
    )
    job_ids = session.scalars(statement).all()
    for job_id in job_ids:
        enqueue(session, job_id)
    return len(job_ids)


def resend_shards(session: Session, unclaimed_seconds: float = 0.0) -> int:
    """The same for pending shards of jobs that are open; return how many.

    A stage finishes without these messages: they only bring other workers to it.
    """
    since = func.clock_timestamp() - timedelta(seconds=unclaimed_seconds)
    recent = exists().where(
        OutboxMessage.shard_id == Shard.id,
        OutboxMessage.sent_at.is_(None) | (OutboxMessage.sent_at > since),
    )
    statement = (
        select(Shard.job_id, Shard.id)
        .join(Job, Job.id == Shard.job_id)
        .where(
            Shard.status == ShardStatus.PENDING,
            Shard.pending_since <= since,
            Job.status.in_(OPEN_STATUSES),
            ~recent,
        )
        .order_by(Job.id, Shard.position)
        .with_for_update(of=Job)  # jobs before shards, as everywhere
    )
    shards = session.execute(statement).all()
    for job_id, shard_id in shards:
        enqueue(session, job_id, shard_id)
    return len(shards)


def resend_versions(session: Session, unclaimed_seconds: float = 0.0) -> int:
    """The same for versions that wait for a builder; return how many."""
    since = func.clock_timestamp() - timedelta(seconds=unclaimed_seconds)
    recent = exists().where(
        OutboxMessage.version_id == ModelVersion.id,
        OutboxMessage.sent_at.is_(None) | (OutboxMessage.sent_at > since),
    )
    statement = (
        select(ModelVersion)
        .where(
            ModelVersion.status == VersionStatus.QUEUED, ModelVersion.queued_at <= since, ~recent
        )
        .order_by(ModelVersion.number)
        .with_for_update(skip_locked=True)
    )
    versions = session.scalars(statement).all()
    for version in versions:
        enqueue_version(session, version)
    return len(versions)


def delete_old_sent(session: Session) -> None:
    """Forget messages sent more than a day ago."""
    before = func.clock_timestamp() - _KEEP_SENT
    session.execute(delete(OutboxMessage).where(OutboxMessage.sent_at < before))


def _address(message: OutboxMessage) -> tuple[str, str]:
    """The task a message is for, and the id it carries."""
    if message.version_id is not None:
        return PUBLISH_TASK, message.version_id
    if message.shard_id is not None:
        return SHARD_TASK, message.shard_id
    return JOB_TASK, message.job_id
