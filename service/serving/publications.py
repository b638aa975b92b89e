"""Functions by which workers build a published version's files, fenced like a job's lease.

Functions take an open session and never commit; wrap each in `Database.transaction()`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.orm import Session

from excise.names import VersionKind, VersionStatus
from excise.specs import CorrectionSpec, parse_spec
from service.artifacts import check_artifact_id
from service.database import clean_message, fetch_now
from service.leases import operations as leases
from service.leases.policy import EndedAttempt, LeasePolicy
from service.models import Job, ModelVersion, OutboxMessage
from service.outbox import enqueue_version
from service.serving.events import append_event

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_FILES = frozenset({"adapter_config.json", ADAPTER_WEIGHTS})
_CHECKPOINT_FILE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*\.(safetensors|json|txt|model|jinja)"
)
_MAX_RANK = 512  # the largest rank that vLLM serves


@dataclass(frozen=True)
class PublicationClaim:
    """A worker's right to build one version and store it with `token`, until the lease is lost."""

    version_id: str
    job_id: str
    tenant_id: str
    token: int
    attempt: int
    base_model: str
    max_rank: int
    """Largest adapter rank that the version's server accepts; above it, build a checkpoint."""
    patch_sha256: str
    spec: CorrectionSpec
    """Spec of the job that made the patch."""

    @property
    def row_id(self) -> str:
        """Id of the leased row."""
        return self.version_id


class VersionLeases(LeasePolicy[ModelVersion]):
    """Versions whose files are being built; retiring one ends its lease, nothing else does."""

    table = ModelVersion
    name = "version"
    waiting = VersionStatus.QUEUED
    held = VersionStatus.BUILDING

    def give_up(self, session: Session, row: ModelVersion, reason: str | None) -> None:
        """Fail the version, with the remedy."""
        reason = reason or leases.describe_silence(row.lease_worker)
        _fail(session, row, _describe_poison(row, reason))

    def requeue(self, session: Session, row: ModelVersion, ended: EndedAttempt) -> None:  # noqa: ARG002
        """Record that the version is queued again."""
        row.queued_at = fetch_now(session)

    def enqueue(self, session: Session, row: ModelVersion) -> None:
        """Notify the workers of the version."""
        enqueue_version(session, row)

    @property
    def waiting_since(self) -> ColumnElement[datetime]:
        """When the version was last queued."""
        return ModelVersion.queued_at.expression

    @property
    def is_named(self) -> ColumnElement[bool]:
        """Whether a message is about the version."""
        return OutboxMessage.version_id == ModelVersion.id

    def select_waiting(self) -> Select[ModelVersion]:
        """Select versions in order of arrival; locked ones are skipped."""
        return select(ModelVersion).order_by(ModelVersion.number).with_for_update(skip_locked=True)

    def note_requeue(
        self,
        session: Session,
        row: ModelVersion,
        ended: EndedAttempt,
        max_attempts: int,  # noqa: ARG002
    ) -> None:
        """Record an event that says that the version will be built again, and why."""
        message = f"Attempt {ended.number} to build it ended early and is queued again: "
        append_event(session, row, "requeue", message + ended.reason)


VERSIONS = VersionLeases()


def claim_publication(
    session: Session,
    version_id: str,
    worker_id: str,
    lease_seconds: float,
    max_attempts: int = 3,
) -> PublicationClaim | None:
    """Return a claim on the version that a message names; None if there is nothing to do.

    A queued version is claimed, as is one whose builder's lease has expired. A version without
    attempts left becomes `failed`.
    """
    version = leases.claim(session, VERSIONS, version_id, worker_id, lease_seconds, max_attempts)
    if version is None:
        return None
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


def file_publication(
    session: Session,
    version_id: str,
    token: int,
    files: Mapping[str, str],
    rank: int | None,
    canary_sha256: str,
) -> None:
    """Store a built version's files by name and its canary document, and end the lease.

    `rank` is the adapter's; None means that the files are a whole checkpoint. Raises `ValueError`
    for invalid names, hashes or ranks, and `LeaseLostError`.
    """
    kind = VersionKind.CHECKPOINT if rank is None else VersionKind.ADAPTER
    check_file_names(kind, files)
    for sha256 in (*files.values(), canary_sha256):
        check_artifact_id(sha256)
    version = leases.lock_held(session, VERSIONS, version_id, token)
    if rank is not None and not 1 <= rank <= min(version.max_rank, _MAX_RANK):
        raise ValueError(f"The adapter has rank {rank}; the limit is {version.max_rank}.")
    version.kind, version.rank, version.files = kind, rank, dict(files)
    version.canary_sha256, version.error_message = canary_sha256, None
    version.status, version.built_at = VersionStatus.BUILT, fetch_now(session)
    version.lease_worker = version.lease_expires_at = None
    what = "a whole checkpoint" if rank is None else f"an adapter of rank {rank}"
    append_event(session, version, "build", f"It was built as {what}; its server is next.")


def fail_publication(session: Session, version_id: str, token: int, message: str) -> None:
    """Record that the version cannot be built, permanently. Raises `LeaseLostError`."""
    _fail(session, leases.lock_held(session, VERSIONS, version_id, token), clean_message(message))


def check_file_names(kind: VersionKind, names: Mapping[str, str]) -> None:
    """Raise `ValueError` unless these are the files of a version of this kind, without paths."""
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


def _fail(session: Session, version: ModelVersion, message: str) -> None:
    """Mark the version as failed."""
    version.status, version.error_message = VersionStatus.FAILED, message
    version.ended_at = fetch_now(session)
    version.lease_worker = version.lease_expires_at = None
    append_event(session, version, "failed", message)


def _describe_poison(version: ModelVersion, reason: str) -> str:
    """Return why the version is given up, with the remedy."""
    return (
        f"{version.attempts} attempts at building it ended early. Last reason: {reason} "
        "Look at the worker's log, then publish the job again."
    )


def _load_spec(session: Session, job_id: str) -> CorrectionSpec:
    """Return the spec of the job that the version comes from; only corrections are published."""
    document = session.scalars(select(Job.spec).where(Job.id == job_id)).one()
    return cast(CorrectionSpec, parse_spec(document))
