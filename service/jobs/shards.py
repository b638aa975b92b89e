"""Functions for workers that share a stage's work, coordinated by the table, not the broker.

A shard is leased like a job: only the holder of its newest token may store a result, and the first
result stays. Functions take an open session and never commit; each locks the job's row before the
shard's, so they cannot deadlock.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from excise.names import JobStatus
from excise.specs import JobSpec, parse_spec
from service.artifacts import check_artifact_id
from service.database import clean_message
from service.jobs.execution import lock_lease
from service.jobs.intermediates import lock_artifact
from service.jobs.leases import SHARDS
from service.jobs.transitions import finish
from service.leases import operations as leases
from service.models import Job, Shard, ShardStatus, new_id
from service.outbox import enqueue


@dataclass(frozen=True)
class ShardClaim:
    """A worker's claim on one shard: until the lease is lost, `token` may store its result."""

    shard_id: str
    job_id: str
    tenant_id: str
    stage: str
    position: int
    input_sha256: str
    token: int
    attempt: int
    spec: JobSpec

    @property
    def row_id(self) -> str:
        """Id of the leased row."""
        return self.shard_id


@dataclass(frozen=True)
class ShardState:
    """State of one shard."""

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
    """Split a stage into shards and offer them to other workers; existing shards are kept.

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
    """Return every shard of the stage, in order. Raises `LeaseLostError`."""
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
    """Claim the shard that a message names; return None if there is nothing to do.

    If the shard has no attempts left, its job fails as `poison_job`.
    """
    shard = leases.claim(session, SHARDS, shard_id, worker_id, lease_seconds, max_attempts)
    return None if shard is None else _build_claim(session, shard)


def claim_next_shard(
    session: Session,
    job_id: str,
    token: int,
    stage: str,
    key: str,
    lease_seconds: float,
    max_attempts: int = 3,
) -> ShardClaim | None:
    """Claim the first free shard for the job's own worker; return None if there is none.

    The claim is valid as long as the job's lease. The result is also None if the shard has no
    attempts left: the job has then failed as `poison_job`, and the lease is lost. Raises
    `LeaseLostError`.
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
    taken = leases.take(session, SHARDS, shard, job.lease_worker, lease_seconds, max_attempts)
    return None if taken is None else _build_claim(session, taken)


def file_shard(session: Session, shard_id: str, token: int, result_sha256: str) -> None:
    """Store the shard's result. Raises `LeaseLostError`, also if there already is one."""
    check_artifact_id(result_sha256)
    shard = leases.lock_held(session, SHARDS, shard_id, token)
    lock_artifact(session, result_sha256)
    shard.status, shard.result_sha256 = ShardStatus.SUCCEEDED, result_sha256
    shard.lease_expires_at = None


def reopen_shard(session: Session, job_id: str, token: int, shard_id: str) -> None:
    """Queue a shard again because the file of its result is missing. Raises `LeaseLostError`."""
    lock_lease(session, job_id, token)
    shard = SHARDS.lock(session, shard_id)
    if shard is not None and shard.status == ShardStatus.SUCCEEDED:
        shard.result_sha256 = None
        leases.requeue(session, SHARDS, shard, "The file of its result is gone.", counts=False)


def fail_by_shard(session: Session, shard_id: str, token: int, code: str, message: str) -> None:
    """Fail the whole job, because no worker can do its shard. Raises `LeaseLostError`."""
    shard = leases.lock_held(session, SHARDS, shard_id, token)
    job, cleaned = session.get_one(Job, shard.job_id), clean_message(message)
    finish(session, job, JobStatus.FAILED, cleaned, error_code=code, error_message=cleaned)


def _build_claim(session: Session, shard: Shard) -> ShardClaim:
    """Return the claim on the shard with its newest token."""
    job = session.get_one(Job, shard.job_id)
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
