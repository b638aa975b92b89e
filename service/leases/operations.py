"""Claiming, renewing, releasing and sweeping rows of any table that has a `LeasePolicy`.

A row is held by whoever has its newest token while its status says that it is held. Functions
take an open session and never commit; wrap each in `Database.transaction()`.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from service.database import clean_message, fetch_now
from service.errors import LeaseLostError
from service.leases.policy import EndedAttempt, LeasePolicy, Row


def claim(
    session: Session,
    policy: LeasePolicy[Row],
    row_id: str,
    worker_id: str,
    lease_seconds: float,
    max_attempts: int,
) -> Row | None:
    """The row, now leased to the worker, or None when there is nothing for it to do.

    A waiting row is claimed, and so is a held one whose lease has expired. A cancelled row is not,
    and one with no attempts left is given up.
    """
    row = policy.lock(session, row_id)
    if row is None or not _is_claimable(policy, row, fetch_now(session)):
        return None
    if policy.is_cancelled(session, row):
        policy.end_cancelled(session, row)
        return None
    return take(session, policy, row, worker_id, lease_seconds, max_attempts)


def take(
    session: Session,
    policy: LeasePolicy[Row],
    row: Row,
    worker_id: str,
    lease_seconds: float,
    max_attempts: int,
) -> Row | None:
    """The locked, claimable row, now leased to the worker; None if it had to be given up."""
    if row.attempts >= max_attempts:
        policy.give_up(session, row, None)
        return None
    silent_worker = row.lease_worker if row.status == policy.held else None
    row.status, row.attempts, row.lease_token = policy.held, row.attempts + 1, row.lease_token + 1
    row.lease_worker = worker_id
    row.lease_expires_at = fetch_now(session) + timedelta(seconds=lease_seconds)
    policy.note_claim(session, row, silent_worker)
    return row


def lock_held(session: Session, policy: LeasePolicy[Row], row_id: str, token: int) -> Row:
    """The row, locked, if `token` holds it.

    The lock keeps every other claim out until the transaction ends, so whatever is written
    in the same transaction is fenced. Raises `LeaseLostError`.
    """
    row = policy.lock(session, row_id)
    if row is None or row.lease_token != token or row.status != policy.held:
        raise LeaseLostError(
            f"Token {token} no longer holds {policy.name} {row_id}. "
            "Stop working on it and write nothing."
        )
    return row


def renew(
    session: Session, policy: LeasePolicy[Row], row_id: str, token: int, lease_seconds: float
) -> bool:
    """Prolong the lease; whether the work is to be cancelled. Raises `LeaseLostError`."""
    row = lock_held(session, policy, row_id, token)
    row.lease_expires_at = fetch_now(session) + timedelta(seconds=lease_seconds)
    policy.note_renewal(session, row)
    return policy.is_cancelled(session, row)


def release(
    session: Session,
    policy: LeasePolicy[Row],
    row_id: str,
    token: int,
    reason: str,
    max_attempts: int = 3,
    *,
    counts: bool = True,
) -> None:
    """Give the row back after its attempt ended early: it waits again, or it is given up.

    An attempt that does not count, as when the worker was told to stop, uses up none of
    `max_attempts`. Raises `LeaseLostError`.
    """
    row = lock_held(session, policy, row_id, token)
    _end_attempt(session, policy, row, clean_message(reason), max_attempts, counts=counts)


def sweep(
    session: Session, policy: LeasePolicy[Row], max_attempts: int, limit: int = 100
) -> list[str]:
    """Take rows away from workers that went silent, as `release` would; the ids of those rows."""
    swept = []
    for row in policy.lock_expired(session, limit):
        reason = f"The worker {row.lease_worker} stopped answering."
        _end_attempt(session, policy, row, reason, max_attempts, counts=True)
        swept.append(row.id)
    return swept


def requeue(
    session: Session,
    policy: LeasePolicy[Row],
    row: Row,
    reason: str,
    *,
    counts: bool = True,
) -> EndedAttempt:
    """Let the locked row wait for another worker; what its owner may be told of the attempt."""
    ended = EndedAttempt(row.attempts, row.lease_worker, reason, counts)
    row.status, row.lease_worker, row.lease_expires_at = policy.waiting, None, None
    if not counts:
        row.attempts -= 1
    policy.requeue(session, row, ended)
    policy.enqueue(session, row)
    return ended


def has_expired(policy: LeasePolicy[Row], row: Row, now: datetime) -> bool:
    """Whether the row is held by a worker that went silent."""
    if row.status != policy.held:
        return False
    return row.lease_expires_at is None or row.lease_expires_at < now


def _is_claimable(policy: LeasePolicy[Row], row: Row, now: datetime) -> bool:
    """Whether the row waits for a worker, or lost the one it had."""
    return row.status == policy.waiting or has_expired(policy, row, now)


def _end_attempt(
    session: Session,
    policy: LeasePolicy[Row],
    row: Row,
    reason: str,
    max_attempts: int,
    *,
    counts: bool,
) -> None:
    """After its worker is gone: end a cancelled row, give the row up, or let it wait again."""
    if policy.end_cancelled(session, row):
        return
    if counts and policy.ends_with_last_attempt and row.attempts >= max_attempts:
        policy.give_up(session, row, reason)
    else:
        ended = requeue(session, policy, row, reason, counts=counts)
        policy.note_requeue(session, row, ended, max_attempts)
