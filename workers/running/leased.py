"""What a supervisor watches over: a leased job, shard or publication, behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import Session

from service.jobs.execution import Claim, finish_job, release_job, renew_lease
from service.jobs.shards import ShardClaim, release_shard, renew_shard
from service.serving.publications import (
    PublicationClaim,
    release_publication,
    renew_publication,
)


class LeasedWork(ABC):
    """Work a worker holds by a lease and a child process does.

    Every method but the constructor raises `LeaseLostError` when the lease is another's.
    """

    def __init__(self, run: Callable[..., None], claim: Any, job_id: str, name: str) -> None:
        self.run = run
        """What the spawned child calls, with the claim and the settings."""
        self.claim = claim
        self.job_id = job_id
        self.name = name

    @abstractmethod
    def renew(self, session: Session, lease_seconds: float) -> bool:
        """Prolong the lease; whether the job is to be cancelled."""

    @abstractmethod
    def give_back(self, session: Session, reason: str, max_attempts: int, counts: bool) -> None:
        """Let another worker have it."""

    @abstractmethod
    def cancel(self, session: Session) -> None:
        """End it after its child had to be stopped, because the job is to be cancelled."""


class LeasedJob(LeasedWork):
    """A whole job."""

    def __init__(self, run: Callable[..., None], claim: Claim) -> None:
        super().__init__(run, claim, claim.job_id, claim.job_id)
        self._key = (claim.job_id, claim.token)

    def renew(self, session: Session, lease_seconds: float) -> bool:
        """Prolong the lease; whether the job is to be cancelled."""
        return renew_lease(session, *self._key, lease_seconds)

    def give_back(self, session: Session, reason: str, max_attempts: int, counts: bool) -> None:
        """Queue the job again, or fail it when it has no attempts left."""
        release_job(session, *self._key, reason, max_attempts, counts=counts)

    def cancel(self, session: Session) -> None:
        """End the job as cancelled."""
        finish_job(session, *self._key, "cancelled")


class LeasedShard(LeasedWork):
    """One shard of another worker's job."""

    def __init__(self, run: Callable[..., None], claim: ShardClaim) -> None:
        super().__init__(run, claim, claim.job_id, claim.shard_id)
        self._key = (claim.shard_id, claim.token)

    def renew(self, session: Session, lease_seconds: float) -> bool:
        """Prolong the lease; whether the job is to be cancelled."""
        return renew_shard(session, *self._key, lease_seconds)

    def give_back(self, session: Session, reason: str, max_attempts: int, counts: bool) -> None:  # noqa: ARG002
        """Let another worker have the shard; its next claim checks `max_attempts`."""
        release_shard(session, *self._key, reason, counts=counts)

    def cancel(self, session: Session) -> None:
        """Leave the shard to the cancelled job's end."""
        release_shard(session, *self._key, "The job is to be cancelled.", counts=False)


class LeasedPublication(LeasedWork):
    """The building of one published version; retiring the version takes the lease away."""

    def __init__(self, run: Callable[..., None], claim: PublicationClaim) -> None:
        super().__init__(run, claim, claim.job_id, claim.version_id)
        self._key = (claim.version_id, claim.token)

    def renew(self, session: Session, lease_seconds: float) -> bool:
        """Prolong the lease; nobody cancels a publication."""
        renew_publication(session, *self._key, lease_seconds)
        return False

    def give_back(self, session: Session, reason: str, max_attempts: int, counts: bool) -> None:
        """Queue the version again, or fail it when it has no attempts left."""
        release_publication(session, *self._key, reason, max_attempts, counts=counts)

    def cancel(self, session: Session) -> None:
        """Leave the version to its next builder."""
        release_publication(session, *self._key, "It was stopped.", counts=False)
