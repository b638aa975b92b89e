"""All queries for estimates: sizes of prompt sets, and the machines that workers report."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from excise.estimates.machine import Machine
from excise.estimates.prompts import SetSize
from service.models import Job, PromptSet, Worker


def find_set_sizes(
    session: Session, tenant_id: str, prompt_set_ids: Collection[str]
) -> dict[str, SetSize]:
    """Return id → size of those of the tenant's sets that exist, without reading their content."""
    rows = session.execute(
        select(PromptSet.id, PromptSet.prompts, PromptSet.bytes).where(
            PromptSet.tenant_id == tenant_id, PromptSet.id.in_(prompt_set_ids)
        )
    )
    return {row.id: SetSize.of_file(row.prompts, row.bytes) for row in rows}


def list_live_machines(session: Session, silent_seconds: float) -> Sequence[Machine]:
    """Return the machines of the workers that sent a heartbeat recently and reported one."""
    since = func.clock_timestamp() - timedelta(seconds=silent_seconds)
    statement = select(Worker.machine).where(
        Worker.heartbeat_at > since, Worker.machine.is_not(None)
    )
    return [Machine.model_validate(found) for found in session.scalars(statement)]


def find_machine_of_job(session: Session, job_id: str) -> Machine | None:
    """Return the machine of the worker with the job's lease; None until it is reported."""
    statement = select(Worker.machine).join(Job, Job.lease_worker == Worker.id)
    found = session.scalar(statement.where(Job.id == job_id))
    return None if found is None else Machine.model_validate(found)
