"""Lease policies of jobs and their shards; see `service.leases`.

To change a shard, its job's row is locked first and the shard's row second, so there are no
deadlocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import ColumnElement, Select, and_, func, select, update
from sqlalchemy.orm import Session

from excise.names import OPEN_STATUSES, JobStatus, StageStatus
from service.database import fetch_now
from service.jobs.shard_states import list_held_shards, prolong_shards_of
from service.jobs.transitions import append_event, cancel, fail_as_poison
from service.leases.operations import describe_silence, has_expired, requeue
from service.leases.policy import EndedAttempt, LeasePolicy
from service.models import Job, OutboxMessage, Shard, ShardStatus, Stage
from service.outbox import enqueue


class ShardLeases(LeasePolicy[Shard]):
    """Shards of unfinished jobs. If a shard has no attempts left, its job fails."""

    table = Shard
    name = "shard"
    waiting = ShardStatus.PENDING
    held = ShardStatus.RUNNING
    ends_with_last_attempt = False

    def lock(self, session: Session, row_id: str) -> Shard | None:
        """Return the current row, locked after its job's; None also if the job has ended."""
        job_id = session.scalar(select(Shard.job_id).where(Shard.id == row_id))
        job = None if job_id is None else JOBS.lock(session, job_id)
        if job is None or job.status not in OPEN_STATUSES:
            return None
        return super().lock(session, row_id)

    def lock_expired(self, session: Session, limit: int) -> Iterator[Shard]:
        """Yield held shards with expired leases; they are found first, then locked one by one."""
        expired = (
            select(Shard.id)
            .where(
                Shard.status == ShardStatus.RUNNING,
                Shard.lease_expires_at < func.clock_timestamp(),
            )
            .order_by(Shard.job_id, Shard.position)
            .limit(limit)
        )
        for shard_id in session.scalars(expired).all():
            shard = self.lock(session, shard_id)
            if shard is not None and has_expired(self, shard, fetch_now(session)):
                yield shard

    def is_cancelled(self, session: Session, row: Shard) -> bool:
        """Return whether the shard's job is to be cancelled, which ends its shards as well."""
        return session.get_one(Job, row.job_id).cancel_requested

    def give_up(self, session: Session, row: Shard, reason: str | None) -> None:
        """Fail the shard's job, because every attempt at the shard ended early."""
        is_silent = row.status == ShardStatus.RUNNING
        reason = describe_silence(row.lease_worker) if is_silent else reason or row.last_reason
        what = f"Shard {row.position + 1} of the stage {row.stage}"
        reason = reason or "Unknown."
        fail_as_poison(session, session.get_one(Job, row.job_id), reason, what, row.attempts)

    def note_claim(self, session: Session, row: Shard, silent_worker: str | None) -> None:  # noqa: ARG002
        """Store why the previous attempt ended."""
        if silent_worker is not None:
            row.last_reason = describe_silence(silent_worker)

    def requeue(self, session: Session, row: Shard, ended: EndedAttempt) -> None:  # noqa: ARG002
        """Store why the attempt ended."""
        row.last_reason, row.pending_since = ended.reason, func.clock_timestamp()

    def enqueue(self, session: Session, row: Shard) -> None:
        """Notify all workers of the shard."""
        enqueue(session, row.job_id, row.id)

    @property
    def waiting_since(self) -> ColumnElement[datetime]:
        """When the shard last began to wait."""
        return Shard.pending_since.expression

    @property
    def is_named(self) -> ColumnElement[bool]:
        """Whether a message is about the shard."""
        return OutboxMessage.shard_id == Shard.id

    def select_waiting(self) -> Select[Shard]:
        """Select shards of unfinished jobs, in order, with their jobs locked."""
        return (
            select(Shard)
            .join(Job, Job.id == Shard.job_id)
            .where(Job.status.in_(OPEN_STATUSES))
            .order_by(Job.id, Shard.position)
            .with_for_update(of=Job)
        )

    def note_requeue(
        self,
        session: Session,
        row: Shard,
        ended: EndedAttempt,
        max_attempts: int,  # noqa: ARG002
    ) -> None:
        """Tell the job's owner that a shard has to be done again."""
        number = row.position + 1
        message = (
            f"Shard {number} of the stage {row.stage} has to be computed again: {ended.reason}"
        )
        data = {"stage": row.stage, "shard": number, "attempt": row.attempts}
        append_event(session, row.job_id, "shard.requeued", message, data, "warning")


class JobLeases(LeasePolicy[Job]):
    """Whole jobs. Shards held by a job's own worker are renewed and end with the job's lease."""

    table = Job
    name = "job"
    waiting = JobStatus.QUEUED
    held = JobStatus.RUNNING

    def is_cancelled(self, session: Session, row: Job) -> bool:  # noqa: ARG002
        """Return whether cancellation of the job was requested."""
        return row.cancel_requested

    def end_cancelled(self, session: Session, row: Job) -> bool:
        """End the job as cancelled if that was requested."""
        if row.cancel_requested:
            cancel(session, row)
        return row.cancel_requested

    def give_up(self, session: Session, row: Job, reason: str | None) -> None:
        """Fail the job as `poison_job`."""
        fail_as_poison(session, row, reason or describe_silence(row.lease_worker))

    def note_claim(self, session: Session, row: Job, silent_worker: str | None) -> None:
        """Record an event that says which worker took the job and, if it changed, why."""
        row.started_at = row.started_at or fetch_now(session)
        worker, data = row.lease_worker, {"attempt": row.attempts, "worker": row.lease_worker}
        if row.lease_token == 1:
            append_event(session, row.id, "job.started", f"Worker {worker} took the job.", data)
            return
        is_silent = silent_worker is not None
        why = "its worker was not heard of any more" if is_silent else "it was queued again"
        message = f"Worker {worker} took the job over after {why} (attempt {row.attempts})."
        append_event(session, row.id, "job.resumed", message, data, "warning")

    def note_renewal(self, session: Session, row: Job) -> None:
        """Renew the leases of the job's shards that its own worker holds."""
        assert row.lease_expires_at is not None
        prolong_shards_of(session, row.id, row.lease_worker, row.lease_expires_at)

    def requeue(self, session: Session, row: Job, ended: EndedAttempt) -> None:
        """Put the job back into the queue; finished stages and shards are kept."""
        for shard in list_held_shards(session, row.id, ended.worker):
            requeue(session, SHARDS, shard, ended.reason, counts=ended.counts)
        row.queued_at, row.estimated_finish = fetch_now(session), None
        session.execute(
            update(Stage)
            .where(Stage.job_id == row.id, Stage.status == StageStatus.RUNNING)
            .values(status=StageStatus.PENDING, started_at=None)
        )

    def enqueue(self, session: Session, row: Job) -> None:
        """Notify the workers of the job."""
        enqueue(session, row.id)

    @property
    def waiting_since(self) -> ColumnElement[datetime]:
        """When the job was last queued."""
        return Job.queued_at.expression

    @property
    def is_named(self) -> ColumnElement[bool]:
        """Whether a message is about the job itself."""
        return and_(
            OutboxMessage.job_id == Job.id,
            OutboxMessage.shard_id.is_(None),
            OutboxMessage.version_id.is_(None),
        )

    def select_waiting(self) -> Select[Job]:
        """Select jobs in order of arrival; locked ones are skipped."""
        return select(Job).order_by(Job.number).with_for_update(skip_locked=True)

    def note_requeue(
        self, session: Session, row: Job, ended: EndedAttempt, max_attempts: int
    ) -> None:
        """Record an event that says that the job is queued again, and why."""
        message = (
            f"Attempt {ended.number} of {max_attempts} ended early and is queued again: "
            f"{ended.reason}"
        )
        data = {"attempt": ended.number, "counts": ended.counts}
        append_event(session, row.id, "job.requeued", message, data, "warning")


SHARDS = ShardLeases()
JOBS = JobLeases()
