"""`/v1/tenant`: the tenant a key belongs to."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from excise.resources.tenants import TenantView
from service.context import Context
from service.errors import ConflictError
from service.keys.authentication import Admin, Reader
from service.strict_bodies import StrictJsonRoute
from service.tenants import operations

router = APIRouter(prefix="/v1/tenant", tags=["tenant"], route_class=StrictJsonRoute)


@router.get("")
def get_tenant(context: Context, reader: Reader) -> TenantView:
    """Get the key's tenant, with its quotas and usage."""
    with context.database.transaction() as session:
        return operations.view_tenant(session, reader.tenant_id, context.settings.quotas)


@router.delete(
    "",
    status_code=204,
    response_class=Response,
    responses={409: {"description": "The name is wrong, jobs are open, or versions are served"}},
)
def delete_tenant(
    context: Context,
    admin: Admin,
    name: Annotated[str, Query(max_length=256, description="The tenant's name, as confirmation")],
) -> None:
    """Delete the key's tenant, with its keys, prompt sets, jobs, versions and all files."""
    with context.database.transaction() as session:
        found = operations.view_tenant(session, admin.tenant_id, context.settings.quotas).name
    if found != name:
        raise ConflictError("name is not the name of this key's tenant. See GET /v1/tenant.")
    operations.delete_tenant(context.database, context.artifacts, admin.tenant_id)
    context.gateway.router.forget()
