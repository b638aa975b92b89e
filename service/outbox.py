"""The outbox: messages to run or publish a job or shard, written with the change, sent later."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from opentelemetry.trace import SpanKind
from sqlalchemy import ColumnElement, delete, exists, func, select
from sqlalchemy.orm import Session

from service.leases.policy import LeasePolicy, Row
from service.metrics.counters import OUTBOX_RESENT, OUTBOX_SENT
from service.models import ModelVersion, OutboxMessage
from service.tracing import continue_trace, get_traceparent, is_tracing

JOB_TASK = "excise.run_job"
SHARD_TASK = "excise.run_shard"
PUBLISH_TASK = "excise.publish"

Publish = Callable[[str, str], None]
"""Sends a message, which consists of the task's name and an id."""

_KEEP_SENT = timedelta(days=1)

SENT_AT_ONCE = 100
"""Largest number of messages that are sent in one transaction. Chosen by hand."""


def enqueue(session: Session, job_id: str, shard_id: str | None = None) -> None:
    """Write the message to run a job or one of its shards; it is sent after the commit."""
    traceparent = get_traceparent() or find_traceparent(session, OutboxMessage.job_id == job_id)
    session.add(OutboxMessage(job_id=job_id, shard_id=shard_id, traceparent=traceparent))


def enqueue_version(session: Session, version: ModelVersion) -> None:
    """Write the message to build a version; it is sent after the commit."""
    is_about = OutboxMessage.version_id == version.id
    traceparent = get_traceparent() or find_traceparent(session, is_about)
    session.add(
        OutboxMessage(job_id=version.job_id, version_id=version.id, traceparent=traceparent)
    )


def find_traceparent(session: Session, is_about: ColumnElement[bool]) -> str | None:
    """Return the trace of the newest matching message that has one; messages are kept for a day.

    Returns None if there is none or if nothing is traced.
    """
    if not is_tracing():
        return None
    statement = select(OutboxMessage.traceparent).where(
        is_about, OutboxMessage.traceparent.is_not(None)
    )
    return session.scalar(statement.order_by(OutboxMessage.id.desc()).limit(1))


def send_unsent(session: Session, publish: Publish) -> int:
    """Send unsent messages, oldest first, at most `SENT_AT_ONCE`, and return their number.

    Messages locked by another relay are skipped. They count as sent only after the transaction
    commits; a crash before that sends them twice, which workers tolerate.
    """
    statement = (
        select(OutboxMessage)
        .where(OutboxMessage.sent_at.is_(None))
        .order_by(OutboxMessage.id)
        .limit(SENT_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    messages = session.scalars(statement).all()
    for message in messages:
        task, row_id = _address(message)
        with continue_trace("outbox send", message.traceparent, SpanKind.PRODUCER, task=task):
            publish(task, row_id)
        message.sent_at = func.clock_timestamp()
    OUTBOX_SENT.inc(len(messages))
    return len(messages)


def count_unsent(session: Session) -> int:
    """Return the number of unsent messages."""
    statement = select(func.count()).where(OutboxMessage.sent_at.is_(None))
    return session.execute(statement.select_from(OutboxMessage)).scalar_one()


def resend(session: Session, policy: LeasePolicy[Row], unclaimed_seconds: float = 0.0) -> int:
    """Write a message for every row that waited `unclaimed_seconds` without one; return how many.

    Rows with an unsent message, or with one sent within that time, are skipped.
    """
    since = func.clock_timestamp() - timedelta(seconds=unclaimed_seconds)
    recent = exists().where(
        policy.is_named, OutboxMessage.sent_at.is_(None) | (OutboxMessage.sent_at > since)
    )
    is_forgotten = (
        policy.table.status == policy.waiting,
        policy.waiting_since <= since,
        ~recent,
    )
    rows = session.scalars(policy.select_waiting().where(*is_forgotten)).all()
    for row in rows:
        policy.enqueue(session, row)
    OUTBOX_RESENT.labels(policy.name).inc(len(rows))
    return len(rows)


def delete_old_sent(session: Session) -> None:
    """Delete messages sent more than a day ago, except those that others have locked.

    Their jobs are being deleted; waiting for several of them might be a deadlock.
    """
    old = select(OutboxMessage.id).where(
        OutboxMessage.sent_at < func.clock_timestamp() - _KEEP_SENT
    )
    unlocked = old.with_for_update(skip_locked=True)
    session.execute(delete(OutboxMessage).where(OutboxMessage.id.in_(unlocked)))


def _address(message: OutboxMessage) -> tuple[str, str]:
    """Return the name of the task that a message is for, and the id it carries."""
    if message.version_id is not None:
        return PUBLISH_TASK, message.version_id
    if message.shard_id is not None:
        return SHARD_TASK, message.shard_id
    return JOB_TASK, message.job_id
