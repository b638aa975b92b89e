"""Functions with which workers execute a job; every write needs its lease's newest fencing token.

Functions take an open session and never commit; wrap each in `Database.transaction()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from excise.estimates.estimate import JobEstimate
from excise.estimates.machine import Machine
from excise.names import JobStatus, StageStatus, Verdict
from excise.specs import JobSpec, parse_spec
from service.artifacts import check_artifact_id
from service.database import clean_message, fetch_now
from service.jobs.intermediates import lock_artifact
from service.jobs.leases import JOBS
from service.jobs.transitions import append_event, finish
from service.leases import operations as leases
from service.models import Event, Job, JobArtifact, Stage, StageResult, Worker

_VERDICTS = {
    JobStatus.SUCCEEDED: (Verdict.PASSED,),
    JobStatus.REJECTED: (Verdict.REJECTED, Verdict.NO_EFFECT),
    JobStatus.FAILED: (None,),
    JobStatus.CANCELLED: (None,),
}


@dataclass(frozen=True)
class Claim:
    """A worker's claim on a job: until the lease is lost, writes with `token` succeed."""

    job_id: str
    tenant_id: str
    token: int
    attempt: int
    spec: JobSpec
    created_at: datetime

    @property
    def row_id(self) -> str:
        """Id of the leased row."""
        return self.job_id


def claim_job(
    session: Session, job_id: str, worker_id: str, lease_seconds: float, max_attempts: int = 3
) -> Claim | None:
    """Return a claim on the job; None if there is nothing to do for this worker.

    A queued job is claimed, as is a running one whose lease has expired. A job whose cancellation
    was requested becomes `cancelled`, one without attempts left `failed` (`poison_job`).
    """
    job = leases.claim(session, JOBS, job_id, worker_id, lease_seconds, max_attempts)
    if job is None:
        return None
    return Claim(
        job_id=job.id,
        tenant_id=job.tenant_id,
        token=job.lease_token,
        attempt=job.attempts,
        spec=parse_spec(job.spec),
        created_at=job.created_at,
    )


def is_cancel_requested(session: Session, job_id: str) -> bool:
    """Return whether cancellation of the job was requested; an unknown job counts as cancelled."""
    flag = session.scalar(select(Job.cancel_requested).where(Job.id == job_id))
    return flag is not False


def start_stage(session: Session, job_id: str, token: int, name: str) -> None:
    """Mark a stage as running. Raises `LeaseLostError`."""
    stage = _lock_stage(session, job_id, token, name)
    stage.status, stage.started_at, stage.finished_at = (
        StageStatus.RUNNING,
        fetch_now(session),
        None,
    )
    stage.done, stage.total, stage.message, stage.estimated_finish = 0, None, None, None
    append_event(session, job_id, "stage.started", f"Stage {name} started.", {"stage": name})


def report_progress(
    session: Session,
    job_id: str,
    token: int,
    name: str,
    done: int,
    total: int | None,
    message: str | None = None,
    remaining_seconds: float | None = None,
) -> None:
    """Store a stage's progress; an event records its first units and each tenth.

    `message` states the progress in units; `remaining_seconds` is the expected rest of the stage,
    or None if unknown. Raises `LeaseLostError`.
    """
    stage = _lock_stage(session, job_id, token, name)
    is_first = stage.done == 0 < done
    is_new_tenth = _tenth(done, total) != _tenth(stage.done, stage.total)
    stage.done, stage.total = done, total
    stage.message = None if message is None else clean_message(message)
    stage.estimated_finish = None
    if remaining_seconds is not None:
        stage.estimated_finish = fetch_now(session) + timedelta(seconds=remaining_seconds)
    if is_first or is_new_tenth:
        text = f"Stage {name}: {stage.message or f'{done} of {total}'}."
        data = {
            "stage": name,
            "done": done,
            "total": total,
            "remaining_seconds": remaining_seconds,
        }
        append_event(session, job_id, "stage.progress", text, data)


def find_stage_result(session: Session, job_id: str, name: str, key: str) -> str | None:
    """Return the SHA-256 of the stage's stored result for `key`; None if there is none."""
    result = session.get(StageResult, (job_id, name, key))
    return None if result is None else result.sha256


def finish_stage(
    session: Session,
    job_id: str,
    token: int,
    name: str,
    key: str,
    result_sha256: str,
    reused: bool,
) -> None:
    """Mark a stage as succeeded and store its result under `key`; an existing result is kept."""
    stage = _lock_stage(session, job_id, token, name)
    _file(session, job_id, name, key, result_sha256)
    if not (reused and stage.status == StageStatus.SUCCEEDED):
        stage.status, stage.finished_at = StageStatus.SUCCEEDED, fetch_now(session)
        stage.message = stage.estimated_finish = None
    stage.done = stage.done if stage.total is None else stage.total
    seconds = _seconds(stage)
    how = "found its earlier result" if reused else f"finished in {seconds:.1f} s"
    data = {"stage": name, "seconds": seconds, "reused": reused, "sha256": result_sha256}
    append_event(session, job_id, "stage.succeeded", f"Stage {name} {how}.", data)


def file_finding(
    session: Session, job_id: str, token: int, name: str, key: str, sha256: str
) -> None:
    """Store an intermediate result of a stage, for `find_stage_result`.

    An existing result under the key is kept. Raises `LeaseLostError`.
    """
    lock_lease(session, job_id, token)
    _file(session, job_id, name, key, sha256)


def replace_finding(
    session: Session, job_id: str, token: int, name: str, key: str, sha256: str
) -> None:
    """Replace the intermediate result stored under the key. Raises `LeaseLostError`."""
    lock_lease(session, job_id, token)
    check_artifact_id(sha256)
    lock_artifact(session, sha256)
    session.execute(
        insert(StageResult)
        .values(job_id=job_id, name=name, key=key, sha256=sha256)
        .on_conflict_do_update(
            index_elements=[StageResult.job_id, StageResult.name, StageResult.key],
            set_={"sha256": sha256},
        )
    )


def drop_finding(session: Session, job_id: str, token: int, name: str, key: str) -> None:
    """Delete the intermediate result stored under the key, if any. Raises `LeaseLostError`."""
    lock_lease(session, job_id, token)
    session.execute(
        delete(StageResult).where(
            StageResult.job_id == job_id, StageResult.name == name, StageResult.key == key
        )
    )


def skip_stage(session: Session, job_id: str, token: int, name: str, message: str) -> None:
    """Mark a stage as not needed, with the reason. Raises `LeaseLostError`."""
    stage = _lock_stage(session, job_id, token, name)
    stage.status, stage.message = StageStatus.SKIPPED, clean_message(message)
    stage.started_at = stage.finished_at = None
    append_event(session, job_id, "stage.skipped", stage.message, {"stage": name})


def record_event(
    session: Session,
    job_id: str,
    token: int,
    type: str,  # noqa: A002 - the name the API uses
    message: str,
    data: Mapping[str, Any] | None = None,
    once: bool = False,
) -> None:
    """Record an event for the job's owner; with `once`, unless the same message was recorded.

    Raises `LeaseLostError`.
    """
    lock_lease(session, job_id, token)
    cleaned = clean_message(message)
    told = (Event.job_id == job_id, Event.type == type, Event.message == cleaned)
    if not (once and session.scalar(select(Event.id).where(*told).limit(1))):
        append_event(session, job_id, type, cleaned, data)


def set_estimated_finish(session: Session, job_id: str, token: int, at: datetime | None) -> None:
    """Store the expected time of the job's end. Raises `LeaseLostError`."""
    lock_lease(session, job_id, token).estimated_finish = at


def file_estimate(session: Session, job_id: str, token: int, estimate: JobEstimate) -> None:
    """Store what the job needs on the worker that holds it. Raises `LeaseLostError`."""
    lock_lease(session, job_id, token).estimate = estimate.model_dump(mode="json")


def attach_artifact(
    session: Session,
    job_id: str,
    token: int,
    name: str,
    sha256: str,
    size: int,
    media_type: str,
) -> None:
    """List a stored artifact among the job's files; the same name again replaces it.

    Raises `LeaseLostError`.
    """
    check_artifact_id(sha256)
    lock_lease(session, job_id, token)
    lock_artifact(session, sha256)
    values = {"sha256": sha256, "bytes": size, "media_type": media_type}
    session.execute(
        insert(JobArtifact)
        .values(job_id=job_id, name=name, **values)
        .on_conflict_do_update(index_elements=["job_id", "name"], set_=values)
    )


def finish_job(
    session: Session,
    job_id: str,
    token: int,
    status: str,
    verdict: str | None = None,
    error_code: str | None = None,
    message: str | None = None,
) -> None:
    """End the job and release its lease, so that a second call raises `LeaseLostError`.

    `message` tells the job's owner how it ended; for a failed job, it is the error message. Raises
    `ValueError` if status, verdict and error contradict each other, and `LeaseLostError`.
    """
    outcome = JobStatus(status)
    if verdict not in _VERDICTS.get(outcome, ()):
        raise ValueError(f"A job cannot end as {status!r} with the verdict {verdict!r}.")
    if (outcome is JobStatus.FAILED) != (error_code is not None):
        raise ValueError("Exactly a failed job has an error_code.")
    job = lock_lease(session, job_id, token)
    told = clean_message(message or "") or f"The job ended: {verdict or outcome.value}."
    finish(
        session,
        job,
        outcome,
        told,
        verdict=verdict,
        error_code=error_code,
        error_message=told if outcome is JobStatus.FAILED else None,
    )


def load_stage_seconds(session: Session, job_id: str) -> dict[str, float]:
    """Return stage → its duration in seconds, for finished stages in order of execution."""
    stages = session.scalars(
        select(Stage)
        .where(Stage.job_id == job_id, Stage.status == StageStatus.SUCCEEDED)
        .order_by(Stage.position)
    )
    return {stage.name: _seconds(stage) for stage in stages}


def is_job_waiting(session: Session, seconds: float) -> bool:
    """Return whether any job has been queued and unclaimed for at least this long."""
    since = fetch_now(session) - timedelta(seconds=seconds)
    statement = select(Job.id).where(Job.status == JobStatus.QUEUED, Job.queued_at <= since)
    return session.scalar(statement.limit(1)) is not None


def heartbeat_worker(
    session: Session,
    worker_id: str,
    hostname: str,
    pid: int,
    busy_job_id: str | None,
    machine: Machine | None = None,
) -> None:
    """Record that a worker is alive, what it works on and, if known, its machine."""
    values: dict[str, Any] = {"hostname": hostname, "pid": pid, "busy_job_id": busy_job_id}
    if machine is not None:
        values["machine"] = machine.model_dump(mode="json")
    session.execute(
        insert(Worker)
        .values(id=worker_id, **values)
        .on_conflict_do_update(
            index_elements=["id"], set_={**values, "heartbeat_at": func.clock_timestamp()}
        )
    )


def lock_lease(session: Session, job_id: str, token: int) -> Job:
    """Return the job's row, locked, if `token` is the newest. Raises `LeaseLostError`."""
    return leases.lock_held(session, JOBS, job_id, token)


def _lock_stage(session: Session, job_id: str, token: int, name: str) -> Stage:
    """Return the job's stage, locked, after checking the lease.

    Raises `LeaseLostError` and `ValueError`.
    """
    lock_lease(session, job_id, token)
    stage = session.get(Stage, (job_id, name), populate_existing=True)
    if stage is None:
        raise ValueError(f"Job {job_id} has no stage {name!r}.")
    return stage


def _file(session: Session, job_id: str, name: str, key: str, sha256: str) -> None:
    check_artifact_id(sha256)
    lock_artifact(session, sha256)
    session.execute(
        insert(StageResult)
        .values(job_id=job_id, name=name, key=key, sha256=sha256)
        .on_conflict_do_nothing()
    )


def _tenth(done: int, total: int | None) -> int:
    """Return which tenth of `total` has been reached; -1 if the total is unknown."""
    return -1 if not total else done * 10 // total


def _seconds(stage: Stage) -> float:
    """Return the duration of the stage."""
    if stage.started_at is None or stage.finished_at is None:
        return 0.0
    return (stage.finished_at - stage.started_at).total_seconds()
