"""Leased work: what a supervisor and a child need to know of one kind of row that workers take."""

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
        """What is leased."""

    @property
    def job_id(self) -> str:
        """The job that the work is a part of."""

    @property
    def tenant_id(self) -> str:
        """Whose job that is."""

    @property
    def spec(self) -> JobSpec:
        """What that job asks for."""

    @property
    def token(self) -> int:
        """The lease's fencing token, which every write needs."""

    @property
    def attempt(self) -> int:
        """How many attempts there were so far, this one included."""


Held = TypeVar("Held", bound=HeldRow)


class LeasedWork(ABC, Generic[Held]):
    """One kind of row that workers take: jobs, shards or versions.

    Instances are handed to the spawned child with a claim, so they must be picklable, and their
    modules must not import torch: the supervisor never loads it. Every method that takes a claim
    raises `LeaseLostError` when the lease is another's.
    """

    task: str
    """The broker task whose messages name such rows."""
    policy: LeasePolicy[Any]

    @abstractmethod
    def claim(
        self,
        session: Session,
        row_id: str,
        worker_id: str,
        lease_seconds: float,
        max_attempts: int,
    ) -> Held | None:
        """A claim on the row, or None when there is nothing for this worker to do."""

    @abstractmethod
    def run(self, database: Database, settings: WorkerSettings, claim: Held) -> None:
        """Do the work and record its result; only ever called in the child.

        Raises `InvalidInputError`, `CancelledJobError` and the service's errors, and leaves the
        recording of those to its caller.
        """

    @abstractmethod
    def cancel(self, session: Session, claim: Held) -> None:
        """Record that the work stopped because its job is to be cancelled."""

    @abstractmethod
    def fail(self, session: Session, claim: Held, code: str, message: str) -> None:
        """Record that the work cannot be done, whoever tries."""

    def renew(self, session: Session, claim: Held, lease_seconds: float) -> bool:
        """Prolong the lease; whether the job is to be cancelled."""
        return renew(session, self.policy, claim.row_id, claim.token, lease_seconds)

    def give_back(
        self, session: Session, claim: Held, reason: str, max_attempts: int, *, counts: bool
    ) -> None:
        """Let another worker have the row, or end it when it has no attempts left."""
        release(
            session, self.policy, claim.row_id, claim.token, reason, max_attempts, counts=counts
        )

    def describe(self, claim: Held) -> str:
        """What the row is called in logs."""
        return f"{self.policy.name} {claim.row_id}"

    def list_log_fields(self, claim: Held) -> dict[str, str]:
        """What every line that is logged about the work carries."""
        ids = {"job_id": claim.job_id, "tenant_id": claim.tenant_id}
        return {**ids, f"{self.policy.name}_id": claim.row_id}
