"""Leases nobody renews any more."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from excise.names import JobStatus
from service.jobs.transitions import requeue_or_give_up
from service.models import Job


def sweep_expired_leases(session: Session, max_attempts: int, limit: int = 100) -> Sequence[str]:
    """Take running jobs away from workers that went silent; the ids of those jobs.

    Each is queued again, or given up, or cancelled if that was asked for.
    """
    statement = (
        select(Job)
        .where(Job.status == JobStatus.RUNNING, Job.lease_expires_at < func.clock_timestamp())
        .order_by(Job.lease_expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    jobs = session.scalars(statement).all()
    for job in jobs:
        reason = f"The worker {job.lease_worker} stopped answering."
        requeue_or_give_up(session, job, reason, max_attempts)
    return [job.id for job in jobs]
