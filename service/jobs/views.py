"""Conversion of a job's rows to API objects, without side effects."""

from __future__ import annotations

import hashlib
from typing import Any

from sqlalchemy import Row

from excise.names import StageStatus
from excise.resources.jobs import (
    ArtifactView,
    EventView,
    JobErrorView,
    JobSummary,
    JobView,
    StageView,
)
from service.models import Event, Job, Stage


def view_job(job: Job) -> JobView:
    """Return the job object."""
    running = [stage.name for stage in job.stages if stage.status == StageStatus.RUNNING]
    return JobView.model_validate(
        {
            "id": job.id,
            "kind": job.kind,
            "status": str(job.status),
            "verdict": job.verdict,
            "model": job.model,
            "spec": job.spec,
            "metadata": job.user_metadata,
            "created_at": job.created_at,
            "started_at": job.started_at,
            "finished_at": job.finished_at,
            "estimated_finish": job.estimated_finish,
            "estimate": job.estimate,
            "attempts": job.attempts,
            "cancel_requested": job.cancel_requested,
            "stage": running[0] if running else None,
            "stages": [_view_stage(stage) for stage in job.stages],
            "error": _view_error(job),
            "artifacts": [
                ArtifactView.model_validate(artifact, from_attributes=True)
                for artifact in job.artifacts
            ],
        }
    )


def summarise_job(row: Row[Any]) -> JobSummary:
    """Return the job's entry in a list."""
    return JobSummary.model_validate(row._mapping)


def view_event(event: Event) -> EventView:
    """Return the event object."""
    return EventView.model_validate(event, from_attributes=True)


def compute_etag(body: str) -> str:
    """Return a strong ETag, which changes exactly when the body does."""
    return f'"{hashlib.sha256(body.encode()).hexdigest()[:32]}"'


def is_known_etag(etag: str, if_none_match: str | None) -> bool:
    """Return whether the client's `If-None-Match` covers `etag`, compared weakly as in RFC 9110."""
    candidates = [part.strip().removeprefix("W/") for part in (if_none_match or "").split(",")]
    return etag in candidates or candidates == ["*"]


def _view_stage(stage: Stage) -> StageView:
    is_running = stage.status == StageStatus.RUNNING
    seconds = None
    if stage.started_at is not None and stage.finished_at is not None:
        seconds = round((stage.finished_at - stage.started_at).total_seconds(), 3)
    return StageView.model_validate(
        {
            "name": stage.name,
            "status": str(stage.status),
            "done": stage.done,
            "total": stage.total,
            "message": stage.message,
            "estimated_finish": stage.estimated_finish if is_running else None,
            "seconds": seconds,
        }
    )


def _view_error(job: Job) -> JobErrorView | None:
    if job.error_code is None:
        return None
    return JobErrorView(code=job.error_code, message=job.error_message or "")
