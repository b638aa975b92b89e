"""State changes of shards. Every function requires that the caller holds the job's row lock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.models import Shard, ShardStatus, StageResult


def list_held_shards(session: Session, job_id: str, worker: str | None) -> Sequence[Shard]:
    """Return every shard of the job that this worker holds, freshly read from the database."""
    statement = select(Shard).where(
        Shard.job_id == job_id,
        Shard.status == ShardStatus.RUNNING,
        Shard.lease_worker == worker,
    )
    return session.scalars(statement, execution_options={"populate_existing": True}).all()


def prolong_shards_of(session: Session, job_id: str, worker: str | None, until: datetime) -> None:
    """Extend all shards of the job that this worker holds; they last as long as its job lease."""
    session.execute(
        update(Shard)
        .where(
            Shard.job_id == job_id,
            Shard.status == ShardStatus.RUNNING,
            Shard.lease_worker == worker,
        )
        .values(lease_expires_at=until)
    )


def delete_shards(session: Session, job_id: str) -> None:
    """Delete the shards of a job that has ended, so that nobody runs them.

    Their results stay recorded with the job, so that their files are deleted in time.
    """
    key = func.concat(Shard.key, "/", Shard.position)
    name = func.concat(Shard.stage, " shard")
    results = select(Shard.job_id, name, key, Shard.result_sha256).where(
        Shard.job_id == job_id, Shard.result_sha256.is_not(None)
    )
    columns = ["job_id", "name", "key", "sha256"]
    session.execute(insert(StageResult).from_select(columns, results).on_conflict_do_nothing())
    session.execute(delete(Shard).where(Shard.job_id == job_id))
