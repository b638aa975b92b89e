"""What is particular to one table of leased rows, behind one interface."""

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
    """How many attempts there had been by then, this one included."""
    worker: str | None
    """Who held the row."""
    reason: str
    counts: bool
    """Whether it uses up one of the row's attempts."""


class LeasePolicy(ABC, Generic[Row]):
    """How the rows of one table are leased. Has no state of its own.

    Every method that takes a row expects the caller to hold the row's lock.
    """

    table: type[Row]
    name: str
    """What a row is called in messages."""
    waiting: str
    """The status of a row that waits for a worker."""
    held: str
    """The status of a row that a worker holds."""
    ends_with_last_attempt: bool = True
    """Whether a row is given up as soon as its last attempt has ended, and not when it is next
    claimed."""

    def lock(self, session: Session, row_id: str) -> Row | None:
        """The current row, locked until the transaction ends; None if nobody may work on it."""
        statement = select(self.table).where(self.table.id == row_id).with_for_update()
        options = {"populate_existing": True}
        return session.scalars(statement, execution_options=options).one_or_none()

    def lock_expired(self, session: Session, limit: int) -> Iterable[Row]:
        """Up to `limit` held rows whose lease has expired, locked; those locked are passed over."""
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
        """Whether the work on the row is to stop because someone asked for it."""
        return False

    def end_cancelled(self, session: Session, row: Row) -> bool:  # noqa: ARG002
        """End a row whose cancellation was asked for; whether that ended it."""
        return False

    @abstractmethod
    def give_up(self, session: Session, row: Row, reason: str | None) -> None:
        """End the row for good: no attempt is left. `reason` is None if none has just ended."""

    @abstractmethod
    def requeue(self, session: Session, row: Row, ended: EndedAttempt) -> None:
        """Do what else it takes for the row to wait again; its status and lease are changed."""

    @abstractmethod
    def enqueue(self, session: Session, row: Row) -> None:
        """Write the message that brings the row to a worker."""

    @property
    @abstractmethod
    def waiting_since(self) -> ColumnElement[datetime]:
        """When a row last began to wait."""

    @property
    @abstractmethod
    def is_named(self) -> ColumnElement[bool]:
        """Whether a message of the outbox is about the row."""

    @abstractmethod
    def select_waiting(self) -> Select[Row]:
        """The rows in the order in which workers are to hear of them, locked."""

    def note_claim(self, session: Session, row: Row, silent_worker: str | None) -> None:
        """Note that a worker took the row, from `silent_worker` if one had held it until then."""

    def note_renewal(self, session: Session, row: Row) -> None:
        """Prolong whatever else lives as long as the row's lease."""

    def note_requeue(
        self, session: Session, row: Row, ended: EndedAttempt, max_attempts: int
    ) -> None:
        """Tell the row's owner that it has to be done again."""
