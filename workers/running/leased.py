"""Leased work: what supervisor and child need to know about each kind of row that workers take."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy.orm import Session

from excise.specs import JobSpec
from service.database import Database
from service.leases.operations import release, renew
from service.leases.policy import LeasePolicy
from workers.settings import WorkerSettings


class HeldRow(Protocol):
    """A claim: the right to work on one row until its lease is lost."""

    @property
    def row_id(self) -> str:
        """Id of the leased row."""

    @property
    def job_id(self) -> str:
        """The job that the work is a part of."""

    @property
    def tenant_id(self) -> str:
        """The tenant of that job."""

    @property
    def spec(self) -> JobSpec:
        """The spec of that job."""

    @property
    def token(self) -> int:
        """The lease's fencing token, which every write needs."""

    @property
    def attempt(self) -> int:
        """Number of attempts so far, including this one."""


Held = TypeVar("Held", bound=HeldRow)


class LeasedWork(ABC, Generic[Held]):
    """One kind of row that workers take: jobs, shards or versions.

    Instances are passed to the child process with a claim, so they must be picklable, and their
    modules must not import torch, which the supervisor never loads. Every method that takes a claim
    raises `LeaseLostError` if another worker has the lease.
    """

    task: str
    """The broker task whose messages name such rows."""
    policy: LeasePolicy[Any]
    loads: str | None = None
    """The module that `run` imports, which takes seconds as it loads torch. Where child processes
    can be forked, it is imported once for all of them."""

    @abstractmethod
    def claim(
        self,
        session: Session,
        row_id: str,
        worker_id: str,
        lease_seconds: float,
        max_attempts: int,
    ) -> Held | None:
        """Claim the row; return None if there is nothing for this worker to do."""

    @abstractmethod
    def run(self, database: Database, settings: WorkerSettings, claim: Held) -> None:
        """Do the work and record its result; called in the child only.

        Raises `InvalidInputError`, `CancelledJobError` and the service's errors, which the caller
        must record.
        """

    @abstractmethod
    def cancel(self, session: Session, claim: Held) -> None:
        """Record that the work stopped because cancellation of its job was requested."""

    @abstractmethod
    def fail(self, session: Session, claim: Held, code: str, message: str) -> None:
        """Record that no worker can do the work."""

    def renew(self, session: Session, claim: Held, lease_seconds: float) -> bool:
        """Extend the lease; return whether the job must be cancelled."""
        return renew(session, self.policy, claim.row_id, claim.token, lease_seconds)

    def give_back(
        self, session: Session, claim: Held, reason: str, max_attempts: int, *, counts: bool
    ) -> None:
        """Release the row to another worker, or end it if it has no attempts left."""
        release(
            session, self.policy, claim.row_id, claim.token, reason, max_attempts, counts=counts
        )

    def describe(self, claim: Held) -> str:
        """Return the row's name for logs."""
        return f"{self.policy.name} {claim.row_id}"

    def list_log_fields(self, claim: Held) -> dict[str, str]:
        """Return the fields for every log line about the work."""
        ids = {"job_id": claim.job_id, "tenant_id": claim.tenant_id}
        return {**ids, f"{self.policy.name}_id": claim.row_id}
