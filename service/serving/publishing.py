"""Publishing a job's correction: permissions, the version it becomes, and idempotency."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence

from sqlalchemy.orm import Session

from excise.names import (
    JobFile,
    JobKind,
    JobStatus,
    KeyScope,
    PoolKind,
    Verdict,
    VersionKind,
    VersionStatus,
)
from excise.resources.serving import AbilitiesView, PublishRequest
from service.artifacts import ArtifactStore
from service.audit.recording import record
from service.errors import ConflictError, ExciseError, ForbiddenError, NotReadyError
from service.jobs import repository as job_repository
from service.jobs.leases import JOBS
from service.jobs.operations import check_idempotency_key, check_same_request, get_job
from service.jobs.transitions import append_event as append_job_event
from service.keys.operations import Identity
from service.keys.repository import is_key_valid
from service.models import Job, ModelVersion, new_id
from service.outbox import enqueue_version
from service.serving import repository
from service.serving.abilities import read_abilities
from service.serving.aliases import promote
from service.serving.events import append_event
from service.serving.places import take_place
from service.serving.pools import ServingPool, list_fitting_pools
from service.serving.versions import get_version
from service.tenants import repository as tenant_repository

logger = logging.getLogger(__name__)


def publish_job(
    session: Session,
    identity: Identity,
    job_id: str,
    request: PublishRequest,
    pools: Sequence[ServingPool],
    artifacts: ArtifactStore,
    idempotency_key: str | None = None,
) -> tuple[ModelVersion, bool]:
    """Publish the job's correction; return the version and whether it is new.

    A job has at most one version that has neither failed nor been retired; publishing it again
    returns that one. A new version keeps the abilities from the job's report, read from
    `artifacts`. The version, the idempotency key and the message to the workers are written in one
    transaction. Raises `NotFoundError`, `NotReadyError`, `ForbiddenError`, `ConflictError`,
    `PoolFullError`, `InvalidRequestError` and `ArtifactCorruptError`.
    """
    check_idempotency_key(idempotency_key)
    request_sha256 = _hash_request(job_id, request)
    job = get_job(session, identity.tenant_id, job_id, lock=True)
    if idempotency_key is not None:
        earlier = job_repository.find_idempotency_key(session, job.tenant_id, idempotency_key)
        if earlier is not None:
            check_same_request(earlier, request_sha256)
            assert earlier.version_id is not None
            return get_version(session, job.tenant_id, earlier.version_id), False
    version, is_new = _find_or_make(session, identity, job, request, pools, artifacts)
    if idempotency_key is not None and not job_repository.reserve_idempotency_key(
        session, job.tenant_id, idempotency_key, request_sha256, job.id, version.id
    ):
        raise ConflictError(
            "This Idempotency-Key is being used by another request. Use a new key for a new "
            "request.",
            param="Idempotency-Key",
        )
    return version, is_new


def publish_finished_job(
    session: Session, job_id: str, pools: Sequence[ServingPool], artifacts: ArtifactStore
) -> None:
    """Publish a job that has ended, once, if its spec asks for it.

    If it cannot be published, the job's events say why.
    """
    tenant_repository.keep_of_job(session, job_id)
    job = JOBS.lock(session, job_id)
    if job is None or job.publish_to is None or JobStatus(job.status).is_open:
        return
    alias, job.publish_to = job.publish_to, None
    if job.status != JobStatus.SUCCEEDED:
        return
    if not is_key_valid(session, job.api_key_id):
        message = f"The correction was not published to {alias}: the job's API key was revoked."
        append_job_event(session, job.id, "publish.refused", message, level="warning")
        return
    submitter = Identity(job.tenant_id, job.api_key_id, frozenset({KeyScope.PUBLISH}))
    try:
        with session.begin_nested():
            request = PublishRequest(alias=alias, reason="asked for in the job's spec")
            version, _ = publish_job(session, submitter, job.id, request, pools, artifacts)
    except ExciseError as error:
        message = f"The correction was not published to {alias}: {error.message}"
        append_job_event(session, job.id, "publish.refused", message, level="warning")
        return
    message = f"The correction is being published as {version.id}, for {alias}."
    data = {"version": version.id, "alias": alias}
    append_job_event(session, job.id, "publish.started", message, data)


def _find_or_make(
    session: Session,
    identity: Identity,
    job: Job,
    request: PublishRequest,
    pools: Sequence[ServingPool],
    artifacts: ArtifactStore,
) -> tuple[ModelVersion, bool]:
    """Return the job's open version, or a new one."""
    _check_may_publish(identity, job, request)
    fitting = list_fitting_pools(pools, job.model)
    if request.alias is not None:  # the locking order is aliases, then versions
        repository.lock_alias(session, job.tenant_id, request.alias)
    if (version := repository.find_open_version(session, job.id)) is not None:
        if request.alias is not None:
            _aim(session, identity, version, request)
        return version, False
    abilities = read_abilities(artifacts, job)  # before taking a lock that other jobs wait for
    pool = take_place(session, job.tenant_id, fitting)
    version = _build_version(identity, job, request, pool, abilities)
    repository.insert_version(session, version)
    _record(session, identity, version, request)
    enqueue_version(session, version)
    session.flush()
    return get_version(session, job.tenant_id, version.id), True


def _check_may_publish(identity: Identity, job: Job, request: PublishRequest) -> None:
    """Raise unless this key may publish this job's correction in this way."""
    if job.kind != JobKind.CORRECTION:
        raise ConflictError(f"This is a {job.kind} job. Only corrections are published.")
    if JobStatus(job.status).is_open:
        raise NotReadyError(f"The job is {job.status}. Publish it once it has passed.")
    if job.verdict is None or job.find_artifact(JobFile.PATCH) is None:
        raise ConflictError(f"The job ended as {job.status} without a patch to publish.")
    if job.verdict == Verdict.PASSED:
        return
    if request.override is None:
        raise ConflictError(
            f"The job's verdict is {job.verdict}; only corrections that passed are published. "
            "An admin may publish it for inspection with override.reason.",
            param="override",
        )
    if not identity.is_admin:
        raise ForbiddenError("An override needs the scope 'admin'. Use a key that has it.")
    if request.alias is not None:
        raise ConflictError(
            f"The job's verdict is {job.verdict}, so no alias may point at it, with or without an "
            "override. Leave alias out.",
            param="alias",
        )


def _aim(
    session: Session, identity: Identity, version: ModelVersion, request: PublishRequest
) -> None:
    """Point the alias to an existing version: now, or once the version is live."""
    assert request.alias is not None
    if version.status == VersionStatus.LIVE:
        promote(
            session,
            version.tenant_id,
            request.alias,
            version.id,
            key_id=identity.key_id,
            reason=request.reason,
        )
    elif version.live_at is not None:
        raise ConflictError(f"{version.id} is {version.status}. Promote it once it is live again.")
    elif version.target_alias not in {None, request.alias}:
        raise ConflictError(
            f"{version.id} is being published for {version.target_alias} already. "
            "Promote it once it is live."
        )
    elif version.target_alias is None:
        version.target_alias = request.alias
        record(session, version.tenant_id, "version.publish", version.id, {"alias": request.alias})


def _build_version(
    identity: Identity,
    job: Job,
    request: PublishRequest,
    pool: ServingPool,
    abilities: AbilitiesView | None,
) -> ModelVersion:
    """Return a queued version of the job's correction."""
    patch_sha256 = job.find_artifact(JobFile.PATCH)
    assert patch_sha256 is not None
    assert job.verdict is not None
    is_overridden = job.verdict != Verdict.PASSED and request.override is not None
    return ModelVersion(
        id=new_id("mv"),
        tenant_id=job.tenant_id,
        job_id=job.id,
        api_key_id=identity.key_id,
        kind=VersionKind.ADAPTER if pool.kind == PoolKind.LORA else VersionKind.CHECKPOINT,
        base_model=job.model,
        pool=pool.name,
        max_rank=pool.max_rank if pool.kind == PoolKind.LORA else 0,
        verdict=job.verdict,
        abilities=None if abilities is None else abilities.model_dump(mode="json"),
        patch_sha256=patch_sha256,
        status=VersionStatus.QUEUED,
        override_reason=request.override.reason if is_overridden and request.override else None,
        override_by=identity.key_id if is_overridden else None,
        target_alias=request.alias,
    )


def _record(
    session: Session, identity: Identity, version: ModelVersion, request: PublishRequest
) -> None:
    """Record who published what; record an override separately."""
    who = identity.key_id
    if version.override_reason is not None:
        message = f"An admin overrode the verdict {version.verdict}."
        append_event(
            session, version, "override", message, key_id=who, reason=version.override_reason
        )
    message = f"The correction of {version.job_id} was published; it waits for a worker."
    append_event(session, version, "publish", message, key_id=who, reason=request.reason)


def _hash_request(job_id: str, request: PublishRequest) -> str:
    """Return the SHA-256 of a request: equal for equivalent requests, never that of a job spec."""
    document = {"publish": job_id, **request.model_dump(mode="json")}
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
