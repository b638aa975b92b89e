"""Deleting intermediate results of a job's stages; the job's own files are never touched.

An artifact is named by its content, so several jobs may share one. It is deleted once no
unfinished or recent job, no job's list of files and no published version refers to it. Adding a
reference (`lock_artifact`) and deleting exclude each other. A worker writes an artifact before it
adds the reference, so afterwards it checks again and rewrites what was deleted in between. Hence
every artifact that is referred to exists, except in that moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from sqlalchemy import ColumnElement, Text, cast, delete, exists, func, or_, select
from sqlalchemy.orm import Session

from service.artifacts import ArtifactStore
from service.database import Database
from service.models import Job, JobArtifact, ModelVersion, Shard, StageResult
from service.tenants import repository as tenant_repository

EXPIRED_AT_ONCE = 100
"""Largest number of expired results that are looked up at a time. Chosen by hand."""


def lock_artifact(session: Session, sha256: str) -> None:
    """Prevent others from referring to or deleting the artifact until the transaction ends.

    Rows are locked before artifacts, and no transaction locks two artifacts, so there are no
    deadlocks.
    """
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(sha256, 0))))


def find_expired(session: Session, retention_seconds: float) -> list[str]:
    """Return at most `EXPIRED_AT_ONCE` hashes of results of expired jobs.

    Some may still be needed elsewhere.
    """
    statement = (
        select(StageResult.sha256)
        .join(Job, Job.id == StageResult.job_id)
        .where(_has_expired(retention_seconds))
        .distinct()
        .limit(EXPIRED_AT_ONCE)
    )
    return list(session.scalars(statement))


def collect_artifact(
    session: Session, store: ArtifactStore, sha256: str, retention_seconds: float
) -> bool:
    """Remove expired jobs' references to the artifact; delete it if there are no others.

    Returns whether it was deleted. Repeated or concurrent calls are harmless.
    """
    lock_artifact(session, sha256)
    expired = select(Job.id).where(_has_expired(retention_seconds))
    session.execute(
        delete(StageResult)
        .where(StageResult.sha256 == sha256, StageResult.job_id.in_(expired))
        .execution_options(synchronize_session=False)
    )
    return discard_artifact(session, store, sha256)


def discard_artifact(session: Session, store: ArtifactStore, sha256: str) -> bool:
    """Delete the artifact unless something refers to it; return whether it was deleted."""
    lock_artifact(session, sha256)
    if _is_named(session, sha256):
        return False
    store.delete(sha256)
    return True


def discard_files(
    database: Database, store: ArtifactStore, files: Iterable[tuple[str, str]]
) -> None:
    """Remove references of ended jobs to artifacts; delete the artifacts without other references.

    `files` are (job id, hash). Each is handled in its own transaction with the job locked, so that
    it cannot be published at the same time.
    """
    for job_id, sha256 in files:
        with database.transaction() as session:
            tenant_repository.keep_of_job(session, job_id)
            session.execute(select(Job.id).where(Job.id == job_id).with_for_update())
            lock_artifact(session, sha256)
            for table in (JobArtifact, StageResult):
                named = (table.job_id == job_id, table.sha256 == sha256)
                statement = delete(table).where(*named)
                session.execute(statement.execution_options(synchronize_session=False))
            if not _is_named(session, sha256):
                store.delete(sha256)


def delete_unnamed(database: Database, store: ArtifactStore, hashes: Iterable[str]) -> None:
    """Delete those of the artifacts that nothing refers to."""
    for sha256 in hashes:
        with database.transaction() as session:
            lock_artifact(session, sha256)
            if not _is_named(session, sha256):
                store.delete(sha256)


def _has_expired(retention_seconds: float) -> ColumnElement[bool]:
    before = func.clock_timestamp() - timedelta(seconds=retention_seconds)
    return Job.finished_at.is_not(None) & (Job.finished_at <= before)


def _is_named(session: Session, sha256: str) -> bool:
    named = or_(
        exists().where(JobArtifact.sha256 == sha256),
        exists().where(StageResult.sha256 == sha256),
        exists().where(or_(Shard.result_sha256 == sha256, Shard.input_sha256 == sha256)),
        exists().where(
            or_(
                ModelVersion.patch_sha256 == sha256,
                ModelVersion.canary_sha256 == sha256,
                cast(ModelVersion.files, Text).contains(sha256),
            )
        ),
    )
    return bool(session.scalar(select(named)))
