"""The interface through which leases handle the differences between tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from service.models import Leased

Row = TypeVar("Row", bound=Leased)


@dataclass(frozen=True)
class EndedAttempt:
    """An attempt at a row that ended before the row was done."""

    number: int
    """Number of attempts so far, including this one."""
    worker: str | None
    """The worker that held the row."""
    reason: str
    counts: bool
    """Whether it counts as one of the row's attempts."""


class LeasePolicy(ABC, Generic[Row]):
    """How the rows of one table are leased. It has no state.

    Every method that takes a row expects the caller to hold the row's lock.
    """

    table: type[Row]
    name: str
    """Name of a row in messages."""
    waiting: str
    """The status of a row that waits for a worker."""
    held: str
    """The status of a row that a worker holds."""
    ends_with_last_attempt: bool = True
    """Whether a row is given up when its last attempt ends, instead of at its next claim."""

    def lock(self, session: Session, row_id: str) -> Row | None:
        """Return the current row, locked until the transaction ends; None if it is not open."""
        statement = select(self.table).where(self.table.id == row_id).with_for_update()
        options = {"populate_existing": True}
        return session.scalars(statement, execution_options=options).one_or_none()

    def lock_expired(self, session: Session, limit: int) -> Iterable[Row]:
        """Lock and return up to `limit` rows with an expired lease; skip rows that are locked."""
        statement = (
            select(self.table)
            .where(
                self.table.status == self.held,
                self.table.lease_expires_at < func.clock_timestamp(),
            )
            .order_by(self.table.lease_expires_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return session.scalars(statement, execution_options={"populate_existing": True}).all()

    def is_cancelled(self, session: Session, row: Row) -> bool:  # noqa: ARG002
        """Return whether cancellation of the row was requested."""
        return False

    def end_cancelled(self, session: Session, row: Row) -> bool:  # noqa: ARG002
        """End a row whose cancellation was requested; return whether it ended."""
        return False

    @abstractmethod
    def give_up(self, session: Session, row: Row, reason: str | None) -> None:
        """End the row for good, as no attempt is left; `reason` is None if none just ended."""

    @abstractmethod
    def requeue(self, session: Session, row: Row, ended: EndedAttempt) -> None:
        """Do what the table needs when a row is queued again; status and lease are already set."""

    @abstractmethod
    def enqueue(self, session: Session, row: Row) -> None:
        """Write the outbox message that sends the row to a worker."""

    @property
    @abstractmethod
    def waiting_since(self) -> ColumnElement[datetime]:
        """Column with the time since which a row waits."""

    @property
    @abstractmethod
    def is_named(self) -> ColumnElement[bool]:
        """Condition that an outbox message refers to the row."""

    @abstractmethod
    def select_waiting(self) -> Select[Row]:
        """Query for the waiting rows, locked, in the order in which workers get them."""

    def note_claim(self, session: Session, row: Row, silent_worker: str | None) -> None:
        """Record that a worker took the row, from `silent_worker` if one had held it."""

    def note_renewal(self, session: Session, row: Row) -> None:
        """Extend everything else that is valid only as long as the row's lease."""

    def note_requeue(
        self, session: Session, row: Row, ended: EndedAttempt, max_attempts: int
    ) -> None:
        """Tell the row's owner that the work must be repeated."""
