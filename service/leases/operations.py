"""Claiming, renewing, releasing and sweeping rows of any table that has a `LeasePolicy`.

The holder of a row is the worker with its newest token, while its status is `held`. Functions
take an open session and never commit; wrap each in `Database.transaction()`.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from service.database import clean_message, fetch_now, fetch_server_start
from service.errors import LeaseLostError
from service.leases.policy import EndedAttempt, LeasePolicy, Row

SWEPT_AT_ONCE = 100
"""Largest number of rows that are swept in one transaction. Chosen by hand."""

_OUTAGE = "The database was started anew, and the lease ran out in the meantime."


def claim(
    session: Session,
    policy: LeasePolicy[Row],
    row_id: str,
    worker_id: str,
    lease_seconds: float,
    max_attempts: int,
) -> Row | None:
    """Lease the row to the worker and return it, or None if there is nothing to do.

    Waiting rows can be claimed, and held rows whose lease has expired. Cancelled rows cannot; a row
    without attempts left is given up.
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
    """Lease the locked, claimable row to the worker and return it; None if it was given up.

    An attempt whose lease ran out while the database was away does not count.
    """
    silent_worker = row.lease_worker if row.status == policy.held else None
    if silent_worker is not None and _ran_out_in_outage(session, row, lease_seconds):
        row.attempts -= 1
    if row.attempts >= max_attempts:
        policy.give_up(session, row, None)
        return None
    row.status, row.attempts, row.lease_token = policy.held, row.attempts + 1, row.lease_token + 1
    row.lease_worker = worker_id
    row.lease_expires_at = fetch_now(session) + timedelta(seconds=lease_seconds)
    policy.note_claim(session, row, silent_worker)
    return row


def lock_held(session: Session, policy: LeasePolicy[Row], row_id: str, token: int) -> Row:
    """Return the row, locked, if `token` holds it.

    The lock blocks every other claim until the transaction ends, so all writes in the same
    transaction are fenced. Raises `LeaseLostError`.
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
    """Extend the lease; return whether the work must be cancelled. Raises `LeaseLostError`."""
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
    """Return the row after an attempt that ended early: it waits again, or is given up.

    With `counts=False`, for example if the worker was told to stop, the attempt does not count
    towards `max_attempts`. Raises `LeaseLostError`.
    """
    row = lock_held(session, policy, row_id, token)
    _end_attempt(session, policy, row, clean_message(reason), max_attempts, counts=counts)


def sweep(
    session: Session,
    policy: LeasePolicy[Row],
    lease_seconds: float,
    max_attempts: int,
) -> list[str]:
    """Release the rows of workers that went silent, as `release` does, and return their ids.

    At most `SWEPT_AT_ONCE` rows are released.
    An attempt whose lease ran out while the database was away does not count.
    """
    swept = []
    for row in policy.lock_expired(session, SWEPT_AT_ONCE):
        counts = not _ran_out_in_outage(session, row, lease_seconds)
        reason = describe_silence(row.lease_worker) if counts else _OUTAGE
        _end_attempt(session, policy, row, reason, max_attempts, counts=counts)
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
    """Put the locked row back into the queue and return its ended attempt."""
    ended = EndedAttempt(row.attempts, row.lease_worker, reason, counts)
    row.status, row.lease_worker, row.lease_expires_at = policy.waiting, None, None
    if not counts:
        row.attempts -= 1
    policy.requeue(session, row, ended)
    policy.enqueue(session, row)
    return ended


def has_expired(policy: LeasePolicy[Row], row: Row, now: datetime) -> bool:
    """Return whether the row is held by a worker that went silent."""
    if row.status != policy.held:
        return False
    return row.lease_expires_at is None or row.lease_expires_at < now


def describe_silence(worker: str | None) -> str:
    """Return why an attempt ended of which nothing more is known than that its lease ran out."""
    return f"The worker {worker} was not heard of any more: it died, or lost the database."


def _ran_out_in_outage(session: Session, row: Row, lease_seconds: float) -> bool:
    """Return whether the database was started after the lease of the row was last renewed.

    Nobody could renew it then, so its end says nothing about the worker.
    """
    if row.lease_expires_at is None:
        return False
    renewed_at = row.lease_expires_at - timedelta(seconds=lease_seconds)
    return fetch_server_start(session) > renewed_at


def _is_claimable(policy: LeasePolicy[Row], row: Row, now: datetime) -> bool:
    """Return whether the row waits for a worker or has lost its worker."""
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
    """After the worker is gone, end the row if cancelled, give it up, or queue it again."""
    if policy.end_cancelled(session, row):
        return
    if counts and policy.ends_with_last_attempt and row.attempts >= max_attempts:
        policy.give_up(session, row, reason)
    else:
        ended = requeue(session, policy, row, reason, counts=counts)
        policy.note_requeue(session, row, ended, max_attempts)
