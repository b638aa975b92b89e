"""The three kinds of rows that workers take: jobs, shards of other workers' jobs, and versions.

The supervisor imports this module, so modules that load torch are imported only in the functions
that a child runs.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from service.database import Database
from service.jobs.execution import Claim, claim_job, finish_job
from service.jobs.leases import JOBS, SHARDS
from service.jobs.shards import ShardClaim, claim_shard, fail_by_shard
from service.leases.operations import release
from service.outbox import JOB_TASK, PUBLISH_TASK, SHARD_TASK
from service.serving.publications import (
    VERSIONS,
    PublicationClaim,
    claim_publication,
    fail_publication,
)
from workers.running.context import JobContext, TaskContext
from workers.running.leased import LeasedWork
from workers.settings import WorkerSettings


class LeasedJob(LeasedWork[Claim]):
    """A whole job."""

    task = JOB_TASK
    policy = JOBS
    loads = "workers.kinds.registry"

    def claim(
        self,
        session: Session,
        row_id: str,
        worker_id: str,
        lease_seconds: float,
        max_attempts: int,
    ) -> Claim | None:
        """Claim the job; return None if it is taken or has ended."""
        return claim_job(session, row_id, worker_id, lease_seconds, max_attempts)

    def run(self, database: Database, settings: WorkerSettings, claim: Claim) -> None:
        """Run the job's stages and end it with a verdict."""
        from workers.kinds.registry import run_job

        with JobContext(database, settings, claim) as context:
            run_job(context)

    def cancel(self, session: Session, claim: Claim) -> None:
        """End the job as cancelled."""
        finish_job(session, claim.job_id, claim.token, "cancelled")

    def fail(self, session: Session, claim: Claim, code: str, message: str) -> None:
        """End the job as failed."""
        finish_job(session, claim.job_id, claim.token, "failed", None, code, message)


class LeasedShard(LeasedWork[ShardClaim]):
    """One shard of another worker's job."""

    task = SHARD_TASK
    policy = SHARDS
    loads = "workers.kinds.registry"

    def claim(
        self,
        session: Session,
        row_id: str,
        worker_id: str,
        lease_seconds: float,
        max_attempts: int,
    ) -> ShardClaim | None:
        """Claim the shard; return None if it is taken, done or not needed."""
        return claim_shard(session, row_id, worker_id, lease_seconds, max_attempts)

    def run(self, database: Database, settings: WorkerSettings, claim: ShardClaim) -> None:
        """Compute the shard and store its result."""
        from workers.kinds.registry import run_shard

        with TaskContext(database, settings, claim) as context:
            run_shard(context, claim)

    def cancel(self, session: Session, claim: ShardClaim) -> None:
        """Do nothing: the shard ends with its job."""
        reason = "The job is to be cancelled."
        release(session, SHARDS, claim.shard_id, claim.token, reason, counts=False)

    def fail(self, session: Session, claim: ShardClaim, code: str, message: str) -> None:
        """Fail the whole job, because no worker can do this shard."""
        fail_by_shard(session, claim.shard_id, claim.token, code, message)


class LeasedPublication(LeasedWork[PublicationClaim]):
    """The build of one published version. It cannot be cancelled; retiring takes its lease away."""

    task = PUBLISH_TASK
    policy = VERSIONS
    loads = "workers.kinds.publication.publish"

    def claim(
        self,
        session: Session,
        row_id: str,
        worker_id: str,
        lease_seconds: float,
        max_attempts: int,
    ) -> PublicationClaim | None:
        """Claim the version; return None if it is taken, built or not wanted."""
        return claim_publication(session, row_id, worker_id, lease_seconds, max_attempts)

    def run(self, database: Database, settings: WorkerSettings, claim: PublicationClaim) -> None:
        """Build the version and store it."""
        from workers.kinds.publication.publish import run_publication

        run_publication(database, settings, claim)

    def cancel(self, session: Session, claim: PublicationClaim) -> None:
        """Do nothing: the version is left to the next worker that builds it."""
        reason = "It was stopped."
        release(session, VERSIONS, claim.version_id, claim.token, reason, counts=False)

    def fail(self, session: Session, claim: PublicationClaim, code: str, message: str) -> None:  # noqa: ARG002
        """Fail the version permanently."""
        fail_publication(session, claim.version_id, claim.token, message)


LEASED_WORK: tuple[LeasedWork[Any], ...] = (LeasedJob(), LeasedShard(), LeasedPublication())
"""Every kind of work that workers take."""
