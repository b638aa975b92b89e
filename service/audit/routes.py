"""`/v1/audit`: lets a tenant's admins read its audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from excise.resources.audit import AuditEntryView, AuditList
from service.audit import operations
from service.audit.recording import Action
from service.context import Context
from service.keys.authentication import Admin
from service.parameters import IN_DIGITS
from service.strict_bodies import StrictJsonRoute

router = APIRouter(prefix="/v1/audit", tags=["audit"], route_class=StrictJsonRoute)

_MAX_ID = 2**63 - 1


@router.get("")
def list_audit(
    context: Context,
    admin: Admin,
    after: Annotated[
        int, Query(ge=0, le=_MAX_ID, description="Only entries after this id"), IN_DIGITS
    ] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many to list"), IN_DIGITS] = 100,
    action: Annotated[Action | None, Query(description="Only changes of this kind")] = None,
) -> AuditList:
    """List one page of the tenant's audit log, oldest first."""
    page, has_more = operations.list_entries(
        context.database, admin.tenant_id, after=after, limit=limit, action=action
    )
    views = [AuditEntryView.model_validate(entry, from_attributes=True) for entry in page]
    return AuditList(data=views, has_more=has_more)
