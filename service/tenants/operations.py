"""The rules of tenants: quotas and deletion."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from excise.resources.tenants import Quotas, TenantView
from service.artifacts import ArtifactStore
from service.audit.recording import record
from service.database import Database
from service.errors import ConflictError, NotFoundError, QuotaExceededError, UnauthorizedError
from service.jobs.intermediates import delete_unnamed, discard_files
from service.models import ENDED_STATUSES, Job, ModelVersion
from service.tenants import repository

_DELETE = {
    "prompt_sets": "Delete some with DELETE /v1/prompt-sets/{id}",
    "prompt_set_bytes": "Delete some with DELETE /v1/prompt-sets/{id}",
    "jobs": "Delete some with DELETE /v1/jobs/{id}",
    "open_jobs": "Wait for one to end, or cancel one",
    "job_bytes": "Delete files with DELETE /v1/jobs/{id}/artifacts",
    "keys": "Revoke some, and wait a day",
}


def view_tenant(session: Session, tenant_id: str, defaults: Quotas) -> TenantView:
    """Return the tenant with its quotas and usage. Raises `NotFoundError`."""
    tenant = repository.find(session, tenant_id)
    if tenant is None:
        raise NotFoundError("There is no such tenant.")
    return TenantView(
        id=tenant.id,
        name=tenant.name,
        created_at=tenant.created_at,
        quotas=defaults.model_copy(update=tenant.quotas or {}),
        usage=repository.measure(session, tenant_id),
    )


def load_quotas(session: Session, tenant_id: str, defaults: Quotas) -> Quotas:
    """Return the tenant's quotas."""
    tenant = repository.find(session, tenant_id)
    return defaults.model_copy(update=(tenant and tenant.quotas) or {})


def set_quotas(session: Session, tenant_id: str, changes: dict[str, int | None]) -> None:
    """Set quotas of the tenant's own; None restores the one from the settings.

    Raises `NotFoundError` and pydantic's `ValidationError`.
    """
    earlier = repository.lock(session, tenant_id)
    if earlier is None:
        raise NotFoundError("There is no such tenant.")
    own = {**earlier, **changes}
    own = {name: value for name, value in own.items() if value is not None}
    Quotas.model_validate(own)
    repository.store_quotas(session, tenant_id, own)
    record(session, tenant_id, "tenant.set_quotas", tenant_id, {"quotas": own})
    session.flush()


def check_room_for_prompt_set(
    session: Session, tenant_id: str, defaults: Quotas, more_bytes: int
) -> None:
    """Raise `QuotaExceededError` if the tenant has no room for another set of this size."""
    quotas = _lock(session, tenant_id, defaults)
    count, size = repository.measure_prompt_sets(session, tenant_id)
    _check("prompt_sets", count, 1, quotas.prompt_sets)
    _check("prompt_set_bytes", size, more_bytes, quotas.prompt_set_bytes)


def check_room_for_job(session: Session, tenant_id: str, defaults: Quotas, more_bytes: int) -> None:
    """Raise `QuotaExceededError` if the tenant has no room for another job of this size."""
    quotas = _lock(session, tenant_id, defaults)
    _check(
        "open_jobs", repository.count_jobs(session, tenant_id, is_open=True), 1, quotas.open_jobs
    )
    _check("jobs", repository.count_jobs(session, tenant_id), 1, quotas.jobs)
    _check("job_bytes", repository.measure_jobs(session, tenant_id), more_bytes, quotas.job_bytes)


def check_room_for_key(session: Session, tenant_id: str, defaults: Quotas) -> None:
    """Raise `QuotaExceededError` if the tenant has no room for another key."""
    quotas = _lock(session, tenant_id, defaults)
    _check("keys", repository.count_keys(session, tenant_id), 1, quotas.keys)


def delete_tenant(database: Database, store: ArtifactStore, tenant_id: str) -> None:
    """Delete the tenant, its files and its rows; an interrupted deletion can be repeated.

    Raises `NotFoundError`, and `ConflictError` while jobs are open or versions are served.
    """
    with database.transaction() as session:
        if repository.find(session, tenant_id) is None:
            raise NotFoundError("There is no such tenant.")
        _check_is_at_rest(session, tenant_id)
        files = repository.list_files(session, Job.tenant_id == tenant_id)
    discard_files(database, store, files)
    with database.transaction() as session:
        if not repository.lock_for_deletion(session, tenant_id):  # another request was faster
            raise NotFoundError("There is no such tenant.")
        _check_is_at_rest(session, tenant_id)
        of_versions = _list_version_files(session, tenant_id)
        repository.delete_tenant(session, tenant_id)
        record(session, tenant_id, "tenant.delete", tenant_id)
    delete_unnamed(database, store, of_versions)


def lock_tenant(session: Session, tenant_id: str) -> dict[str, Any]:
    """Return the caller's tenant's own quotas, with its usage locked against changes.

    Everything that adds to what has a quota does this first. Raises `UnauthorizedError` if the
    tenant was deleted, and the caller's key with it, after the key was checked.
    """
    own = repository.lock(session, tenant_id)
    if own is None:
        raise _build_too_late()
    return own


def keep_tenant(session: Session, tenant_id: str) -> None:
    """Prevent the deletion of the caller's tenant until the transaction ends.

    Everything that locks several rows of the tenant does this first. Raises what `lock_tenant`
    does.
    """
    if not repository.keep(session, tenant_id):
        raise _build_too_late()


def _build_too_late() -> UnauthorizedError:
    return UnauthorizedError("The API key's tenant was deleted. Use a key of another tenant.")


def _lock(session: Session, tenant_id: str, defaults: Quotas) -> Quotas:
    """Return the tenant's quotas, with its usage locked against changes."""
    return defaults.model_copy(update=lock_tenant(session, tenant_id))


def _check(name: str, used: int, more: int, limit: int) -> None:
    if used + more > limit:
        raise QuotaExceededError(
            f"This tenant may have {limit} {name}; it has {used}, and this would add {more}. "
            f"{_DELETE[name]}, or ask the operator to raise the quota {name}."
        )


def _check_is_at_rest(session: Session, tenant_id: str) -> None:
    """Raise `ConflictError` while the tenant has open jobs or served versions."""
    if count := repository.count_jobs(session, tenant_id, is_open=True):
        raise ConflictError(f"{count} jobs of the tenant have not ended. Cancel them, and wait.")
    served = select(ModelVersion.id).where(
        ModelVersion.tenant_id == tenant_id, ModelVersion.status.not_in(ENDED_STATUSES)
    )
    if found := session.scalars(served.limit(1)).first():
        raise ConflictError(f"{found} is on its server or on its way there. Retire every version.")


def _list_version_files(session: Session, tenant_id: str) -> set[str]:
    statement = select(ModelVersion).where(ModelVersion.tenant_id == tenant_id)
    versions = session.scalars(statement).all()
    named = {sha256 for version in versions for sha256 in version.files.values()}
    named |= {version.patch_sha256 for version in versions}
    return named | {version.canary_sha256 for version in versions if version.canary_sha256}
