"""Job objects on the wire; the specs of new jobs are in `excise.specs`."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from excise.estimates.estimate import JobEstimate
from excise.names import JobStatus, StageStatus, Verdict


class StageView(BaseModel):
    """One stage of a job."""

    name: str
    status: StageStatus
    done: int
    """Work done, counted in tokens that pass through the model."""
    total: int | None
    """The same of all work, as far as it is known; of a stage that may end early at most."""
    message: str | None
    """How far it came in plain units: `round 2 of at most 8: 30 of 52 responses`."""
    estimated_finish: datetime | None = None
    """When it will probably be done, while it is running."""
    seconds: float | None


class ArtifactView(BaseModel):
    """One file that a job produced for its owner."""

    name: str
    sha256: str
    bytes: int
    media_type: str


class JobErrorView(BaseModel):
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None


class JobView(BaseModel):
    """The job object."""

    id: str
    object: Literal["job"] = "job"
    kind: str
    status: JobStatus
    verdict: Verdict | None
    model: str
    spec: dict[str, Any]
    metadata: dict[str, str]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    estimated_finish: datetime | None
    estimate: JobEstimate | None = None
    """What it takes: as foreseen when it was submitted, then on the worker that has it. None for
    circuits and compressions, and until a model is fetched from the hub."""
    attempts: int
    cancel_requested: bool
    stage: str | None
    """The stage that is running now."""
    stages: list[StageView]
    error: JobErrorView | None
    artifacts: list[ArtifactView]


class JobSummary(BaseModel):
    """A job in a list; the job object has more fields."""

    id: str
    object: Literal["job.summary"] = "job.summary"
    kind: str
    status: JobStatus
    verdict: Verdict | None
    model: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested: bool
    stage: str | None
    """The stage that is running now."""
    error_code: str | None


class JobList(BaseModel):
    """One page of job summaries, newest first; specs and metadata are in the job objects."""

    object: Literal["list"] = "list"
    data: list[JobSummary]
    has_more: bool


class EventView(BaseModel):
    """Something that happened to a job."""

    id: int
    object: Literal["job.event"] = "job.event"
    type: str
    level: str
    message: str
    data: dict[str, Any]
    created_at: datetime


class EventList(BaseModel):
    """One page of a job's events, oldest first."""

    object: Literal["list"] = "list"
    data: list[EventView]
    has_more: bool
