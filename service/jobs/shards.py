"""What workers call to share a stage's work. The join of its parts is the table, not the broker.

A shard is leased like a job: only the holder of its newest token may file a result, and the first
result filed stays. Functions take an open session and never commit; each locks the job's row
first and the shard's after it, so nothing here can lock in a circle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from excise.names import OPEN_STATUSES, JobStatus
from excise.specs import JobSpec, parse_spec
from service.artifacts import check_artifact_id
from service.database import fetch_now
from service.errors import LeaseLostError
from service.jobs.execution import clean_message, lock_lease
from service.jobs.intermediates import lock_artifact
from service.jobs.shard_states import free_shard
from service.jobs.transitions import append_event, fail_as_poison, finish, lock_job
from service.models import Job, Shard, ShardStatus, new_id
from service.outbox import enqueue


@dataclass(frozen=True)
class ShardClaim:
    """A worker's right to one shard: file its result with `token` until the lease is lost."""

    shard_id: str
    job_id: str
    tenant_id: str
    stage: str
    position: int
    input_sha256: str
    token: int
    attempt: int
    spec: JobSpec


@dataclass(frozen=True)
class ShardState:
    """How far one shard is."""

    shard_id: str
    position: int
    result_sha256: str | None
    worker: str | None


def open_shards(
    session: Session,
    job_id: str,
    token: int,
    stage: str,
    key: str,
    input_sha256: str,
    count: int,
) -> None:
    """Cut a stage into shards and tell other workers; what an earlier attempt cut stays.

    Raises `LeaseLostError`.
    """
    check_artifact_id(input_sha256)
    lock_lease(session, job_id, token)
    for position in range(count):
        values = {
            "id": new_id("shard"),
            "job_id": job_id,
            "stage": stage,
            "key": key,
            "position": position,
            "input_sha256": input_sha256,
            "status": ShardStatus.PENDING,
            "attempts": 0,
            "lease_token": 0,
        }
        statement = insert(Shard).values(**values).on_conflict_do_nothing().returning(Shard.id)
        if (shard_id := session.scalar(statement)) is not None and count > 1:
            enqueue(session, job_id, shard_id)


def list_shards(
    session: Session, job_id: str, token: int, stage: str, key: str
) -> list[ShardState]:
    """Every shard of the stage, in order. Raises `LeaseLostError`."""
    lock_lease(session, job_id, token)
    statement = (
        select(Shard.id, Shard.position, Shard.result_sha256, Shard.lease_worker)
        .where(Shard.job_id == job_id, Shard.stage == stage, Shard.key == key)
        .order_by(Shard.position)
    )
    return [ShardState(*row) for row in session.execute(statement)]


def claim_shard(
    session: Session, shard_id: str, worker_id: str, lease_seconds: float, max_attempts: int = 3
) -> ShardClaim | None:
    """A claim on the shard a message names, or None when there is nothing to do.

    A shard that has no attempts left fails its job as `poison_job`.
    """
    job_id = session.scalar(select(Shard.job_id).where(Shard.id == shard_id))
    job = None if job_id is None else lock_job(session, job_id)
    if job is None or job.status not in OPEN_STATUSES or job.cancel_requested:
        return None
    shard = _lock_shard(session, shard_id)
    if shard is None or not _is_claimable(shard, fetch_now(session)):
        return None
    return _take(session, job, shard, worker_id, lease_seconds, max_attempts)


def claim_next_shard(
    session: Session,
    job_id: str,
    token: int,
    stage: str,
    key: str,
    lease_seconds: float,
    max_attempts: int = 3,
) -> ShardClaim | None:
    """A claim of the job's own worker on the first shard nobody works on, or None.

    It lives as long as the job's lease. Also None when the shard has no attempts left: the job is
    failed as `poison_job` then, and the lease lost. Raises `LeaseLostError`.
    """
    job = lock_lease(session, job_id, token)
    claimable = or_(
        Shard.status == ShardStatus.PENDING,
        (Shard.status == ShardStatus.RUNNING) & (Shard.lease_expires_at < func.clock_timestamp()),
    )
    statement = (
        select(Shard)
        .where(Shard.job_id == job_id, Shard.stage == stage, Shard.key == key, claimable)
        .order_by(Shard.position)
        .limit(1)
        .with_for_update()
    )
    options = {"populate_existing": True}
    shard = session.scalars(statement, execution_options=options).one_or_none()
    if shard is None:
        return None
    assert job.lease_worker is not None
    return _take(session, job, shard, job.lease_worker, lease_seconds, max_attempts)


def renew_shard(session: Session, shard_id: str, token: int, lease_seconds: float) -> bool:
    """Prolong the lease; whether the job is to be cancelled. Raises `LeaseLostError`."""
    job, shard = _lock_held(session, shard_id, token)
    shard.lease_expires_at = fetch_now(session) + timedelta(seconds=lease_seconds)
    return job.cancel_requested


def file_shard(session: Session, shard_id: str, token: int, result_sha256: str) -> None:
    """File the shard's result. Raises `LeaseLostError`, also when a result is filed already."""
    check_artifact_id(result_sha256)
    _, shard = _lock_held(session, shard_id, token)
    lock_artifact(session, result_sha256)
    shard.status, shard.result_sha256 = ShardStatus.SUCCEEDED, result_sha256
    shard.lease_expires_at = None


def release_shard(
    session: Session, shard_id: str, token: int, reason: str, *, counts: bool = True
) -> None:
    """Give the shard back after its attempt ended early. Raises `LeaseLostError`.

    An attempt that does not count, as when the worker was told to stop, uses up none.
    """
    _, shard = _lock_held(session, shard_id, token)
    free_shard(session, shard, clean_message(reason), counts=counts)
    _tell_freed(session, shard)


def reopen_shard(session: Session, job_id: str, token: int, shard_id: str) -> None:
    """Have a shard done again because the file of its result is gone. Raises `LeaseLostError`."""
    lock_lease(session, job_id, token)
    shard = _lock_shard(session, shard_id)
    if shard is not None and shard.status == ShardStatus.SUCCEEDED:
        shard.result_sha256 = None
        free_shard(session, shard, "The file of its result is gone.", counts=False)


def fail_by_shard(session: Session, shard_id: str, token: int, code: str, message: str) -> None:
    """End the whole job: its shard cannot be done, whoever tries. Raises `LeaseLostError`."""
    job, _ = _lock_held(session, shard_id, token)
    cleaned = clean_message(message)
    finish(session, job, JobStatus.FAILED, cleaned, error_code=code, error_message=cleaned)


def sweep_expired_shards(session: Session, limit: int = 100) -> Sequence[str]:
    """Take shards away from workers that went silent; the ids of those shards."""
    expired = (
        select(Shard.id, Shard.job_id)
        .where(Shard.status == ShardStatus.RUNNING, Shard.lease_expires_at < func.clock_timestamp())
        .order_by(Shard.job_id, Shard.position)
        .limit(limit)
    )
    freed = []
    for shard_id, job_id in session.execute(expired).all():
        lock_job(session, job_id)
        shard = _lock_shard(session, shard_id)
        if shard is None or not _is_expired(shard, fetch_now(session)):
            continue
        free_shard(session, shard, f"The worker {shard.lease_worker} stopped answering.")
        _tell_freed(session, shard)
        freed.append(shard_id)
    return freed


def _take(
    session: Session,
    job: Job,
    shard: Shard,
    worker_id: str,
    lease_seconds: float,
    max_attempts: int,
) -> ShardClaim | None:
    """Give the locked shard to the worker under a new token; None fails the job instead."""
    if shard.status == ShardStatus.RUNNING:
        shard.last_reason = f"The worker {shard.lease_worker} stopped answering."
    if shard.attempts >= max_attempts:
        what = f"Shard {shard.position + 1} of the stage {shard.stage}"
        fail_as_poison(session, job, shard.last_reason or "Unknown.", what, shard.attempts)
        return None
    shard.status, shard.lease_worker = ShardStatus.RUNNING, worker_id
    shard.attempts += 1
    shard.lease_token += 1
    shard.lease_expires_at = fetch_now(session) + timedelta(seconds=lease_seconds)
    return ShardClaim(
        shard_id=shard.id,
        job_id=job.id,
        tenant_id=job.tenant_id,
        stage=shard.stage,
        position=shard.position,
        input_sha256=shard.input_sha256,
        token=shard.lease_token,
        attempt=shard.attempts,
        spec=parse_spec(job.spec),
    )


def _is_claimable(shard: Shard, now: datetime) -> bool:
    """Whether the shard waits for a worker, or lost the one it had."""
    return shard.status == ShardStatus.PENDING or _is_expired(shard, now)


def _is_expired(shard: Shard, now: datetime) -> bool:
    """Whether the shard's worker went silent."""
    if shard.status != ShardStatus.RUNNING:
        return False
    return shard.lease_expires_at is None or shard.lease_expires_at < now


def _lock_shard(session: Session, shard_id: str) -> Shard | None:
    """The shard's current row, locked; the job's row is locked already."""
    statement = select(Shard).where(Shard.id == shard_id).with_for_update()
    return session.scalars(statement, execution_options={"populate_existing": True}).one_or_none()


def _lock_held(session: Session, shard_id: str, token: int) -> tuple[Job, Shard]:
    """The job and the shard, locked, if `token` is the newest. Raises `LeaseLostError`."""
    job_id = session.scalar(select(Shard.job_id).where(Shard.id == shard_id))
    job = None if job_id is None else lock_job(session, job_id)
    shard = _lock_shard(session, shard_id)
    if (
        job is None
        or job.status not in OPEN_STATUSES
        or shard is None
        or shard.status != ShardStatus.RUNNING
        or shard.lease_token != token
    ):
        raise LeaseLostError(
            f"Token {token} no longer holds shard {shard_id}. Stop working on it and file nothing."
        )
    return job, shard


def _tell_freed(session: Session, shard: Shard) -> None:
    """Tell the job's owner that a shard has to be done again."""
    number = shard.position + 1
    message = f"Shard {number} of the stage {shard.stage} is to be done again: {shard.last_reason}"
    data = {"stage": shard.stage, "shard": number, "attempt": shard.attempts}
    append_event(session, shard.job_id, "shard.requeued", message, data, "warning")
