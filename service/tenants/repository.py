"""All queries on tenants' usage, and the deletion of their rows.

To avoid deadlocks, a tenant's row is locked before all others. A deletion of the tenant, which
locks rows of every table, takes `lock_for_deletion`. Whoever locks two of the tenant's rows, or
adds one that refers to another, takes `keep` or `lock` first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, Text, cast, delete, func, or_, select, update
from sqlalchemy.orm import Session

from excise.names import OPEN_STATUSES
from excise.resources.tenants import Usage
from service.models import ApiKey, Base, Job, JobArtifact, PromptSet, StageResult, Tenant

_REVOKED_KEYS_COUNT_FOR = timedelta(days=1)
"""A revoked key counts towards the tenant's quota for this long."""


def find(session: Session, tenant_id: str) -> Tenant | None:
    """Return the tenant, or None."""
    return session.get(Tenant, tenant_id, populate_existing=True)


def find_by_name(session: Session, name: str) -> Tenant | None:
    """Return the tenant with this name, or None."""
    return session.scalars(select(Tenant).where(Tenant.name == name)).one_or_none()


def list_tenants(session: Session) -> list[Tenant]:
    """Return all tenants, ordered by name."""
    return list(session.scalars(select(Tenant).order_by(Tenant.name)))


def lock(session: Session, tenant_id: str) -> dict[str, Any] | None:
    """Return the tenant's own quotas, and block other changes of its usage until the commit.

    Returns None if there is no such tenant, and {} if it has no quotas of its own.
    """
    statement = select(Tenant.quotas).where(Tenant.id == tenant_id)
    found = session.execute(statement.with_for_update(key_share=True)).one_or_none()
    return None if found is None else found.quotas or {}


def lock_for_deletion(session: Session, tenant_id: str) -> bool:
    """Wait for all who keep or lock the tenant, and make others wait; return whether it exists."""
    statement = select(Tenant.id).where(Tenant.id == tenant_id)
    return session.scalar(statement.with_for_update()) is not None


def keep(session: Session, tenant_id: str) -> bool:
    """Prevent the tenant's deletion until the commit; return whether it exists.

    Others may keep it as well, or change its usage.
    """
    return _keep(session, select(Tenant.id).where(Tenant.id == tenant_id))


def keep_of_job(session: Session, job_id: str) -> bool:
    """Do the same with the job's tenant; return whether the job exists."""
    statement = select(Tenant.id).join(Job, Job.tenant_id == Tenant.id).where(Job.id == job_id)
    return _keep(session, statement)


def store_quotas(session: Session, tenant_id: str, own: Mapping[str, Any]) -> None:
    """Store the tenant's own quotas."""
    statement = update(Tenant).where(Tenant.id == tenant_id)
    session.execute(statement.values(quotas=dict(own) or None))


def measure_prompt_sets(session: Session, tenant_id: str) -> tuple[int, int]:
    """Return the number of the tenant's prompt sets, and their bytes."""
    statement = select(func.count(), func.coalesce(func.sum(PromptSet.bytes), 0))
    count, size = session.execute(statement.where(PromptSet.tenant_id == tenant_id)).one()
    return count, int(size)


def count_jobs(session: Session, tenant_id: str, *, is_open: bool = False) -> int:
    """Return the number of the tenant's jobs, or only of open ones."""
    statement = select(func.count(Job.id)).where(Job.tenant_id == tenant_id)
    if is_open:
        statement = statement.where(Job.status.in_(OPEN_STATUSES))
    return session.execute(statement).scalar_one()


def measure_jobs(session: Session, tenant_id: str) -> int:
    """Return the bytes of the tenant's jobs: stored specs and files."""
    specs = select(func.coalesce(func.sum(func.pg_column_size(Job.spec)), 0))
    files = select(func.coalesce(func.sum(JobArtifact.bytes), 0)).join(
        Job, Job.id == JobArtifact.job_id
    )
    of_tenant = Job.tenant_id == tenant_id
    return sum(int(session.execute(each.where(of_tenant)).scalar_one()) for each in (specs, files))


def count_keys(session: Session, tenant_id: str) -> int:
    """Return how many keys of the tenant are valid or were revoked within the last day."""
    since = func.clock_timestamp() - _REVOKED_KEYS_COUNT_FOR
    counts = or_(ApiKey.revoked_at.is_(None), ApiKey.revoked_at > since)
    statement = select(func.count(ApiKey.id)).where(ApiKey.tenant_id == tenant_id, counts)
    return session.execute(statement).scalar_one()


def measure(session: Session, tenant_id: str) -> Usage:
    """Return the tenant's usage of everything with a quota that the database knows."""
    prompt_sets, prompt_set_bytes = measure_prompt_sets(session, tenant_id)
    return Usage(
        prompt_sets=prompt_sets,
        prompt_set_bytes=prompt_set_bytes,
        jobs=count_jobs(session, tenant_id),
        open_jobs=count_jobs(session, tenant_id, is_open=True),
        job_bytes=measure_jobs(session, tenant_id),
        keys=count_keys(session, tenant_id),
    )


def is_prompt_set_in_use(session: Session, tenant_id: str, prompt_set_id: str) -> bool:
    """Return whether an open job of the tenant uses the set."""
    statement = select(Job.id).where(
        Job.tenant_id == tenant_id,
        Job.status.in_(OPEN_STATUSES),
        cast(Job.spec, Text).contains(prompt_set_id),
    )
    return session.scalar(statement.limit(1)) is not None


def list_files(session: Session, of_jobs: ColumnElement[bool]) -> Sequence[tuple[str, str]]:
    """Return job id and hash of everything that these jobs have in the artifact store."""
    files = select(JobArtifact.job_id, JobArtifact.sha256).join(Job, Job.id == JobArtifact.job_id)
    results = select(StageResult.job_id, StageResult.sha256).join(Job, Job.id == StageResult.job_id)
    rows = session.execute(files.where(of_jobs).union(results.where(of_jobs)))
    return [(row.job_id, row.sha256) for row in rows]


def delete_job(session: Session, job_id: str) -> None:
    """Delete the job and all rows that belong to it."""
    for table in _list_tables():
        _delete_of_jobs(session, table, Job.id == job_id)
    session.execute(
        delete(Job).where(Job.id == job_id).execution_options(synchronize_session=False)
    )


def delete_tenant(session: Session, tenant_id: str) -> None:
    """Delete the tenant and all that belongs to it, except records that refer to no row."""
    for table in _list_tables():
        if "tenant_id" in table.c and table.foreign_keys:
            session.execute(delete(table).where(table.c.tenant_id == tenant_id))
        else:
            _delete_of_jobs(session, table, Job.tenant_id == tenant_id)
    session.execute(
        delete(Tenant).where(Tenant.id == tenant_id).execution_options(synchronize_session=False)
    )


def _keep(session: Session, tenant: Select[str]) -> bool:
    locked = tenant.with_for_update(read=True, key_share=True, of=Tenant)
    return session.scalar(locked) is not None


def _delete_of_jobs(session: Session, table: Table, of_jobs: ColumnElement[bool]) -> None:
    """Delete the table's rows that refer to these jobs."""
    for key in table.foreign_keys:
        if key.column is Job.__table__.c.id:
            session.execute(delete(table).where(key.parent.in_(select(Job.id).where(of_jobs))))


def _list_tables() -> list[Table]:
    """Return all tables, each before those it refers to."""
    return list(reversed(Base.metadata.sorted_tables))
