"""What the stages of a job hand to one another, and its end: the job's files are never touched.

An artifact is named by its content, so jobs may share one. It is deleted once no unfinished or
recent job, no job's list of files and no published version names it. Whoever names one
(`lock_artifact`) and whoever deletes one take turns; a worker that wrote before its name was filed
looks again afterwards and writes anew what was deleted in between. So whatever is named exists,
but for that moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from sqlalchemy import ColumnElement, Text, cast, delete, exists, func, or_, select
from sqlalchemy.orm import Session

from service.artifacts import ArtifactStore
from service.database import Database
from service.models import Job, JobArtifact, ModelVersion, Shard, StageResult


def lock_artifact(session: Session, sha256: str) -> None:
    """Keep everybody else from naming or deleting the artifact until the transaction ends.

    Rows are locked before artifacts, and no transaction locks two, so none waits in a circle.
    """
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(sha256, 0))))


def find_expired(session: Session, retention_seconds: float, limit: int = 100) -> list[str]:
    """Hashes of results of jobs that ended so long ago; some may be needed elsewhere."""
    statement = (
        select(StageResult.sha256)
        .join(Job, Job.id == StageResult.job_id)
        .where(_has_expired(retention_seconds))
        .distinct()
        .limit(limit)
    )
    return list(session.scalars(statement))


def collect_artifact(
    session: Session, store: ArtifactStore, sha256: str, retention_seconds: float
) -> bool:
    """Forget that expired jobs made the artifact; delete it if nothing else names it.

    Returns whether it is gone. Doing it again, or at the same time elsewhere, changes nothing.
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
    """Delete the artifact unless something names it; return whether it is gone."""
    lock_artifact(session, sha256)
    if _is_named(session, sha256):
        return False
    store.delete(sha256)
    return True


def discard_files(
    database: Database, store: ArtifactStore, files: Iterable[tuple[str, str]]
) -> None:
    """Have ended jobs, by id, no longer name artifacts, by hash; delete those nothing else names.

    Each in a transaction of its own, with its job locked, so that none is being published.
    """
    for job_id, sha256 in files:
        with database.transaction() as session:
            session.execute(select(Job.id).where(Job.id == job_id).with_for_update())
            lock_artifact(session, sha256)
            for table in (JobArtifact, StageResult):
                named = (table.job_id == job_id, table.sha256 == sha256)
                statement = delete(table).where(*named)
                session.execute(statement.execution_options(synchronize_session=False))
            if not _is_named(session, sha256):
                store.delete(sha256)


def delete_unnamed(database: Database, store: ArtifactStore, hashes: Iterable[str]) -> None:
    """Delete those of the artifacts that nothing names."""
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
