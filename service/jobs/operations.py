"""The rules of jobs, as the API sees them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row
from sqlalchemy.orm import Session

from excise.intake.model_sources import ModelSource
from excise.names import JobStatus, KeyScope
from excise.specs import CorrectionSpec, JobSpec
from service.artifacts import ArtifactStore
from service.audit.recording import record
from service.database import Database
from service.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    NotReadyError,
    TooManyOpenJobsError,
)
from service.estimates.operations import choose_spec_dtype, estimate_submission
from service.jobs import repository
from service.jobs.intermediates import discard_files
from service.jobs.model_checks import check_model
from service.jobs.prompt_set_checks import check_prompt_sets
from service.jobs.transitions import append_event, cancel
from service.keys.operations import Identity
from service.listing import Noun, cut_page
from service.models import Event, IdempotencyKey, Job, JobArtifact, new_id
from service.outbox import enqueue
from service.serving.pools import list_fitting_pools
from service.settings import Settings
from service.tenants import repository as tenant_repository
from service.tenants.operations import check_room_for_job, keep_tenant, lock_tenant

_JOB = Noun("job", "GET /v1/jobs", re.compile(r"job_[0-9a-f]{24}"))
_ARTIFACT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FILES_DELETED = "job.files_deleted"
_IDEMPOTENCY_KEY = re.compile(r"[\x20-\x7e]{1,255}")


def submit_job(
    session: Session,
    identity: Identity,
    spec: JobSpec,
    settings: Settings,
    idempotency_key: str | None = None,
) -> tuple[Job, bool]:
    """Return the job for this request, and whether it is new.

    The job, its idempotency key and the message to the workers are written in one transaction.
    Raises `InvalidRequestError`, `ConflictError`, `QuotaExceededError`, `TooManyOpenJobsError` and
    `DoesNotFitError`.
    """
    check_idempotency_key(idempotency_key)
    request_sha256 = hash_spec(spec)
    lock_tenant(session, identity.tenant_id)  # a request with the same key may be under way
    if earlier := _find_earlier(session, identity, idempotency_key):
        return _replay(session, earlier, request_sha256), False
    source = _check_admissible(session, identity, spec, settings)
    spec = choose_spec_dtype(session, spec, settings)
    job = _build_job(identity, spec)
    found = estimate_submission(session, identity.tenant_id, spec, source.path, settings)
    job.estimate = None if found is None else found.model_dump(mode="json")
    if idempotency_key is not None and not repository.reserve_idempotency_key(
        session, identity.tenant_id, idempotency_key, request_sha256, job.id
    ):  # a publication with this key was faster
        winner = _find_earlier(session, identity, idempotency_key)
        assert winner is not None
        return _replay(session, winner, request_sha256), False
    repository.insert_job(session, job, list(spec.stages))
    append_event(session, job.id, "job.queued", "The job is waiting for a worker.")
    enqueue(session, job.id)
    record(session, job.tenant_id, "job.submit", job.id, {"kind": job.kind, "model": job.model})
    session.flush()
    return get_job(session, identity.tenant_id, job.id), True


def check_submission(
    session: Session,
    identity: Identity,
    spec: JobSpec,
    settings: Settings,
    idempotency_key: str | None = None,
) -> bool:
    """Return whether `submit_job` would make a new job now; False if an earlier request did.

    Call it before work that costs more than these checks and is only needed for a new job. Raises
    what `submit_job` does, except `DoesNotFitError`.
    """
    check_idempotency_key(idempotency_key)
    lock_tenant(session, identity.tenant_id)
    if _find_earlier(session, identity, idempotency_key):
        return False
    _check_admissible(session, identity, spec, settings)
    return True


def get_job(session: Session, tenant_id: str, job_id: str, *, lock: bool = False) -> Job:
    """Return the tenant's job with this id. Raises `NotFoundError`."""
    return _JOB.get(job_id, lambda own: repository.find_job(session, tenant_id, own, lock=lock))


def list_jobs(
    session: Session, tenant_id: str, after: str | None, limit: int
) -> tuple[Sequence[Row[Any]], bool]:
    """Return a page of the tenant's jobs in brief, newest first, and whether there are more."""
    number = _JOB.get_last(after, lambda own: repository.find_number(session, tenant_id, own))
    return cut_page(repository.list_page(session, tenant_id, number, limit + 1), limit)


def cancel_job(session: Session, tenant_id: str, job_id: str) -> Job:
    """Cancel the job if it is queued, or ask it to stop if it runs; return it.

    Raises `NotFoundError`, and `ConflictError` for a job that has ended.
    """
    job = get_job(session, tenant_id, job_id, lock=True)
    if not JobStatus(job.status).is_open:
        raise ConflictError(f"The job has already ended as {job.status}; it cannot be cancelled.")
    if not job.cancel_requested:
        record(session, tenant_id, "job.cancel", job.id)
    if job.status == JobStatus.QUEUED:
        cancel(session, job)
    elif not job.cancel_requested:
        job.cancel_requested = True
        message = "Cancellation was requested; the worker stops at its next check."
        append_event(session, job.id, "job.cancel_requested", message)
    session.flush()
    return get_job(session, tenant_id, job_id)


def delete_artifacts(database: Database, store: ArtifactStore, tenant_id: str, job_id: str) -> None:
    """Delete the files of a job that has ended, except those that a published version needs.

    Raises `NotFoundError`, and `ConflictError` for a job that has not ended.
    """
    with database.transaction() as session:
        job = _get_ended(session, tenant_id, job_id)
        files = [(job.id, artifact.sha256) for artifact in job.artifacts]
        # an ended job gets no more files, so a second deletion only completes the first
        if files and not repository.has_event(session, job.id, _FILES_DELETED):
            append_event(session, job.id, _FILES_DELETED, "The job's files were deleted.")
            record(session, tenant_id, "job.delete_files", job.id, {"files": len(files)})
    discard_files(database, store, files)


def delete_job(database: Database, store: ArtifactStore, tenant_id: str, job_id: str) -> None:
    """Delete a job that has ended, with its files and everything stored about it.

    Raises `NotFoundError`, and `ConflictError` for a job that has not ended or was published.
    """
    with database.transaction() as session:
        job = _get_ended(session, tenant_id, job_id)
        if repository.has_version(session, job.id):
            raise ConflictError(
                "The job was published, so it stays on record. Delete only its files, with "
                "DELETE /v1/jobs/{id}/artifacts."
            )
        files = tenant_repository.list_files(session, Job.id == job.id)
    discard_files(database, store, files)
    with database.transaction() as session:
        _get_ended(session, tenant_id, job_id)
        # it was published meanwhile, and its files are already gone
        if repository.has_version(session, job_id):
            raise ConflictError("The job is being published.")
        tenant_repository.delete_job(session, job_id)
        record(session, tenant_id, "job.delete", job_id)


def list_events(
    session: Session, tenant_id: str, job_id: str, after: int, limit: int
) -> tuple[Job, Sequence[Event], bool]:
    """Return the job, one page of its events, oldest first, and whether there are more.

    The job is read first, so if it has ended, the events include its last one.
    """
    job = get_job(session, tenant_id, job_id)
    page = repository.list_events(session, job.id, after, limit + 1)
    return job, *cut_page(page, limit)


def get_artifact(session: Session, tenant_id: str, job_id: str, name: str) -> JobArtifact:
    """Return one of the job's files.

    Raises `NotReadyError` while the job may still produce it, and `NotFoundError` once it cannot.
    """
    job = get_job(session, tenant_id, job_id)
    artifact = None
    if _ARTIFACT_NAME.fullmatch(name):
        artifact = repository.find_artifact(session, job.id, name)
    if artifact is not None:
        return artifact
    if JobStatus(job.status).is_open:
        raise NotReadyError(f"The job is {job.status} and has no such file yet. Try again later.")
    raise NotFoundError(
        f"The job ended as {job.status} without such a file, or it was deleted. See its artifacts."
    )


def _get_ended(session: Session, tenant_id: str, job_id: str) -> Job:
    """Return the tenant's job, locked. Raises `NotFoundError`, or `ConflictError` if open."""
    keep_tenant(session, tenant_id)
    job = get_job(session, tenant_id, job_id, lock=True)
    if JobStatus(job.status).is_open:
        raise ConflictError(f"The job is {job.status}. Cancel it, and delete it once it has ended.")
    return job


def hash_spec(spec: JobSpec) -> str:
    """Return the SHA-256 of a spec, which is equal for equivalent requests."""
    canonical = json.dumps(spec.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def check_idempotency_key(key: str | None) -> None:
    """Raise `InvalidRequestError` if the key is empty, too long or not printable."""
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidRequestError(
            "Idempotency-Key must be 1 to 255 printable ASCII characters. Use a UUID.",
            param="Idempotency-Key",
        )


def check_same_request(earlier: IdempotencyKey, request_sha256: str) -> None:
    """Raise `ConflictError` if the idempotency key was used for a different request."""
    if earlier.request_sha256 != request_sha256:
        raise ConflictError(
            "This Idempotency-Key was used with another body. Use a new key for a new request.",
            param="Idempotency-Key",
        )


def _find_earlier(
    session: Session, identity: Identity, idempotency_key: str | None
) -> IdempotencyKey | None:
    """Return what this key of the tenant was used for before, or None."""
    if idempotency_key is None:
        return None
    return repository.find_idempotency_key(session, identity.tenant_id, idempotency_key)


def _replay(session: Session, earlier: IdempotencyKey, request_sha256: str) -> Job:
    """Return the job that an earlier request with the same key made. Raises `ConflictError`."""
    check_same_request(earlier, request_sha256)
    return get_job(session, earlier.tenant_id, earlier.job_id)


def _check_admissible(
    session: Session, identity: Identity, spec: JobSpec, settings: Settings
) -> ModelSource:
    """Return the job's checkpoint, if the spec suits the server, the tenant and its quotas."""
    _check_open_jobs(session, identity, settings.max_open_jobs_per_key)
    source = check_model(spec, settings)
    _check_publish(identity, spec, settings)
    size = len(json.dumps(spec.model_dump(mode="json")))
    check_room_for_job(session, identity.tenant_id, settings.quotas, size)
    check_prompt_sets(session, identity.tenant_id, spec, settings)
    return source


def _check_open_jobs(session: Session, identity: Identity, limit: int) -> None:
    """Raise `TooManyOpenJobsError` if the key may not have another open job."""
    if repository.count_open_jobs(session, identity.key_id) >= limit:
        raise TooManyOpenJobsError(
            f"This API key has {limit} queued or running jobs, which is the limit. "
            "Wait for one to end, or cancel one."
        )


def _check_publish(identity: Identity, spec: JobSpec, settings: Settings) -> None:
    """Raise `ForbiddenError` or `InvalidRequestError` if the job could not be published."""
    if isinstance(spec, CorrectionSpec) and spec.publish is not None:
        identity.require(KeyScope.PUBLISH)
        list_fitting_pools(settings.serving_pools, spec.model)


def _build_job(identity: Identity, spec: JobSpec) -> Job:
    """Return a queued job for the spec."""
    publish = spec.publish if isinstance(spec, CorrectionSpec) else None
    return Job(
        id=new_id("job"),
        tenant_id=identity.tenant_id,
        api_key_id=identity.key_id,
        kind=spec.kind,
        model=spec.model,
        spec=spec.model_dump(mode="json"),
        user_metadata=dict(spec.metadata),
        publish_to=publish.alias if publish else None,
        status=JobStatus.QUEUED,
    )
