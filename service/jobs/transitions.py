"""State changes of jobs. Every function requires that the caller holds the job's row lock."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import update
from sqlalchemy.orm import Session

from excise.names import JobStatus, StageStatus
from service.database import fetch_now
from service.jobs.shard_states import delete_shards
from service.models import Event, Job, Stage
from service.webhooks.messages import tell_of_job

Level = Literal["debug", "info", "warning", "error"]
_LEVELS: dict[str, Level] = {
    JobStatus.FAILED: "error",
    JobStatus.REJECTED: "warning",
    JobStatus.CANCELLED: "warning",
}


def append_event(
    session: Session,
    job_id: str,
    type: str,  # noqa: A002 - the name the API uses
    message: str,
    data: Mapping[str, Any] | None = None,
    level: Level = "info",
) -> None:
    """Record an event of the job, and notify the webhooks that want it."""
    session.add(
        Event(job_id=job_id, type=type, level=level, message=message, data=dict(data or {}))
    )
    tell_of_job(session, job_id, type)


def finish(
    session: Session,
    job: Job,
    status: JobStatus,
    message: str,
    *,
    verdict: str | None = None,
    error_code: str | None = None,
    error_message: str | None = None,
) -> None:
    """End the job for good: release its lease, close its stages, record the last event."""
    now = fetch_now(session)
    job.status, job.verdict, job.finished_at = status, verdict, now
    job.error_code, job.error_message = error_code, error_message
    job.lease_worker = job.lease_expires_at = job.estimated_finish = None
    _close_stages(session, job.id, status, now)
    delete_shards(session, job.id)
    data = {"status": status.value, "verdict": verdict, "error_code": error_code}
    append_event(
        session, job.id, f"job.{status.value}", message, data, _LEVELS.get(status.value, "info")
    )


def cancel(session: Session, job: Job) -> None:
    """End the job as cancelled."""
    job.cancel_requested = True
    finish(session, job, JobStatus.CANCELLED, "The job was cancelled.")


def fail_as_poison(
    session: Session, job: Job, reason: str, what: str = "The job", times: int | None = None
) -> None:
    """Fail the job because too many attempts at it, or at one of its shards, ended early."""
    message = (
        f"{what} was given up after {times or job.attempts} attempts that ended early. "
        f"Last reason: {reason} Look at the worker's log, then submit the job again, smaller if "
        "it ran out of memory."
    )
    finish(
        session,
        job,
        JobStatus.FAILED,
        message,
        error_code="poison_job",
        error_message=message,
    )


def _close_stages(session: Session, job_id: str, status: JobStatus, now: datetime) -> None:
    """Close the stages of a finished job: mark running ones as failed, pending ones as skipped."""
    session.flush()
    interrupted = "The job was cancelled." if status is JobStatus.CANCELLED else None
    of_job = update(Stage).where(Stage.job_id == job_id)
    session.execute(
        of_job.where(Stage.status == StageStatus.RUNNING).values(
            {Stage.status: StageStatus.FAILED, Stage.finished_at: now}
            | ({Stage.message: interrupted} if interrupted else {})
        )
    )
    session.execute(
        of_job.where(Stage.status == StageStatus.PENDING).values(status=StageStatus.SKIPPED)
    )
