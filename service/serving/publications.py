"""What workers call to build a published version's files, fenced like a job's lease.

Functions take an open session and never commit; wrap each in `Database.transaction()`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from excise.names import VersionKind, VersionStatus
from excise.specs import CorrectionSpec, parse_spec
from service.artifacts import check_artifact_id
from service.database import fetch_now
from service.errors import LeaseLostError
from service.jobs.execution import clean_message
from service.models import Job, ModelVersion
from service.outbox import enqueue_version
from service.serving.events import append_event

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_FILES = frozenset({"adapter_config.json", ADAPTER_WEIGHTS})
_CHECKPOINT_FILE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*\.(safetensors|json|txt|model|jinja)"
)
_MAX_RANK = 512  # the largest vLLM serves


@dataclass(frozen=True)
class PublicationClaim:
    """A worker's right to build one version: file it with `token` until the lease is lost."""

    version_id: str
    job_id: str
    tenant_id: str
    token: int
    attempt: int
    base_model: str
    max_rank: int
    """Largest adapter rank the version's server takes; above it, build a checkpoint."""
    patch_sha256: str
    spec: CorrectionSpec
    """Of the job that made the patch."""


def claim_publication(
    session: Session,
    version_id: str,
    worker_id: str,
    lease_seconds: float,
    max_attempts: int = 3,
) -> PublicationClaim | None:
    """A claim on the version a message names, or None when there is nothing to do.

    A queued version is claimed, and so is one whose builder's lease has expired. One with no
    attempts left becomes `failed`.
    """
    version = _lock_version(session, version_id)
    if version is None or not _is_claimable(session, version):
        return None
    if version.attempts >= max_attempts:
        _fail(session, version, _describe_poison(version, "The worker stopped answering."))
        return None
    version.status, version.attempts = VersionStatus.BUILDING, version.attempts + 1
    version.lease_token, version.lease_worker = version.lease_token + 1, worker_id
    version.lease_expires_at = fetch_now(session) + timedelta(seconds=lease_seconds)
    session.flush()
    return PublicationClaim(
        version_id=version.id,
        job_id=version.job_id,
        tenant_id=version.tenant_id,
        token=version.lease_token,
        attempt=version.attempts,
        base_model=version.base_model,
        max_rank=version.max_rank,
        patch_sha256=version.patch_sha256,
        spec=_load_spec(session, version.job_id),
    )


def renew_publication(session: Session, version_id: str, token: int, lease_seconds: float) -> None:
    """Prolong the lease. Raises `LeaseLostError`."""
    version = _lock_lease(session, version_id, token)
    version.lease_expires_at = fetch_now(session) + timedelta(seconds=lease_seconds)


def file_publication(
    session: Session,
    version_id: str,
    token: int,
    files: Mapping[str, str],
    rank: int | None,
    canary_sha256: str,
) -> None:
    """The version is built: its files by name, and its canary document; the lease ends.

    `rank` is an adapter's; None says that the files are a whole checkpoint.
    Raises `ValueError` for names, hashes or ranks no version may have, and `LeaseLostError`.
    """
    kind = VersionKind.CHECKPOINT if rank is None else VersionKind.ADAPTER
    check_file_names(kind, files)
    for sha256 in (*files.values(), canary_sha256):
        check_artifact_id(sha256)
    version = _lock_lease(session, version_id, token)
    if rank is not None and not 1 <= rank <= min(version.max_rank, _MAX_RANK):
        raise ValueError(f"The adapter has rank {rank}; the limit is {version.max_rank}.")
    version.kind, version.rank, version.files = kind, rank, dict(files)
    version.canary_sha256, version.error_message = canary_sha256, None
    version.status, version.built_at = VersionStatus.BUILT, fetch_now(session)
    version.lease_worker = version.lease_expires_at = None
    what = "a whole checkpoint" if rank is None else f"an adapter of rank {rank}"
    append_event(session, version, "build", f"It was built as {what}; its server is next.")


def fail_publication(session: Session, version_id: str, token: int, message: str) -> None:
    """The version cannot be built; nothing will try again. Raises `LeaseLostError`."""
    _fail(session, _lock_lease(session, version_id, token), clean_message(message))


def release_publication(
    session: Session,
    version_id: str,
    token: int,
    reason: str,
    max_attempts: int = 3,
    *,
    counts: bool = True,
) -> None:
    """Give the version back after an attempt ended early: queued again, or failed for good.

    An attempt that does not count, as when the worker was told to stop, uses up none of
    `max_attempts`. Raises `LeaseLostError`.
    """
    version = _lock_lease(session, version_id, token)
    _requeue_or_fail(session, version, clean_message(reason), max_attempts, counts=counts)


def sweep_expired_publications(
    session: Session, max_attempts: int, limit: int = 100
) -> Sequence[str]:
    """Take versions away from builders that went silent; the ids of those versions."""
    statement = (
        select(ModelVersion)
        .where(
            ModelVersion.status == VersionStatus.BUILDING,
            ModelVersion.lease_expires_at < func.clock_timestamp(),
        )
        .order_by(ModelVersion.lease_expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    versions = session.scalars(statement).all()
    for version in versions:
        reason = f"The worker {version.lease_worker} stopped answering."
        _requeue_or_fail(session, version, reason, max_attempts, counts=True)
    return [version.id for version in versions]


def check_file_names(kind: VersionKind, names: Mapping[str, str]) -> None:
    """Raise `ValueError` unless these are the files of such a version and never a path."""
    if kind == VersionKind.ADAPTER:
        if set(names) != ADAPTER_FILES:
            raise ValueError(
                f"An adapter has exactly the files {', '.join(sorted(ADAPTER_FILES))}."
            )
        return
    for name in names:
        if not _CHECKPOINT_FILE.fullmatch(name):
            raise ValueError(
                f"A checkpoint may not hold a file called {name[:100]!r}. Only safetensors, JSON, "
                "text, tokeniser models and chat templates, without folders."
            )
    if "config.json" not in names or not any(n.endswith(".safetensors") for n in names):
        raise ValueError("A checkpoint needs config.json and at least one .safetensors file.")


def _is_claimable(session: Session, version: ModelVersion) -> bool:
    """Whether the version waits for a builder, or lost the one it had."""
    if version.status == VersionStatus.QUEUED:
        return True
    expires_at = version.lease_expires_at
    has_expired = expires_at is None or expires_at < fetch_now(session)
    return version.status == VersionStatus.BUILDING and has_expired


def _requeue_or_fail(
    session: Session, version: ModelVersion, reason: str, max_attempts: int, *, counts: bool
) -> None:
    """After its builder is gone: give the version up, or queue it again."""
    if counts and version.attempts >= max_attempts:
        _fail(session, version, _describe_poison(version, reason))
        return
    version.status, version.queued_at = VersionStatus.QUEUED, fetch_now(session)
    version.lease_worker = version.lease_expires_at = None
    message = f"Attempt {version.attempts} to build it ended early and is queued again: {reason}"
    append_event(session, version, "requeue", message)
    if not counts:
        version.attempts -= 1
    enqueue_version(session, version)


def _fail(session: Session, version: ModelVersion, message: str) -> None:
    """The version has failed for good."""
    version.status, version.error_message = VersionStatus.FAILED, message
    version.ended_at = fetch_now(session)
    version.lease_worker = version.lease_expires_at = None
    append_event(session, version, "failed", message)


def _describe_poison(version: ModelVersion, reason: str) -> str:
    """Why a version is given up, and what helps."""
    return (
        f"Building it ended its worker {version.attempts} times. Last reason: {reason} "
        "Look at the worker's log, then publish the job again."
    )


def _load_spec(session: Session, job_id: str) -> CorrectionSpec:
    """The spec of the job a version comes from; only corrections are published."""
    document = session.scalars(select(Job.spec).where(Job.id == job_id)).one()
    return cast(CorrectionSpec, parse_spec(document))


def _lock_version(session: Session, version_id: str) -> ModelVersion | None:
    """The version's current row, locked until the transaction ends."""
    statement = select(ModelVersion).where(ModelVersion.id == version_id).with_for_update()
    options = {"populate_existing": True}
    return session.scalars(statement, execution_options=options).one_or_none()


def _lock_lease(session: Session, version_id: str, token: int) -> ModelVersion:
    """The version's row, locked, if `token` is the newest. Raises `LeaseLostError`."""
    version = _lock_version(session, version_id)
    if version is None or version.lease_token != token or version.status != VersionStatus.BUILDING:
        raise LeaseLostError(
            f"Token {token} no longer holds {version_id}. Stop working on it and write nothing."
        )
    return version
