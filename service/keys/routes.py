"""`/v1/keys`: a tenant's admins manage the tenant's keys."""

from __future__ import annotations

from fastapi import APIRouter

from excise.resources.keys import KeyList, KeyRequest, KeyView, NewKeyView
from service.context import Context
from service.keys import operations, repository
from service.keys.authentication import Admin
from service.models import ApiKey
from service.shown_once import SHOWN_ONCE
from service.strict_bodies import StrictJsonRoute
from service.tenants.operations import check_room_for_key

router = APIRouter(prefix="/v1/keys", tags=["keys"], route_class=StrictJsonRoute)


@router.post(
    "",
    status_code=201,
    dependencies=[SHOWN_ONCE],
    responses={409: {"description": "A quota is used up"}},
)
def create_key(request: KeyRequest, context: Context, admin: Admin) -> NewKeyView:
    """Create a key; it is shown only this once."""
    with context.database.transaction() as session:
        check_room_for_key(session, admin.tenant_id, context.settings.quotas)
        key, secret = operations.create_key(session, admin.tenant_id, request.name, request.scopes)
        return NewKeyView(**_view(key).model_dump(), key=secret)


@router.get("")
def list_keys(context: Context, admin: Admin) -> KeyList:
    """List the tenant's keys."""
    with context.database.transaction() as session:
        keys = repository.list_keys(session, admin.tenant_id)
        return KeyList(data=[_view(key) for key in keys])


@router.delete(
    "/{key_id}", responses={409: {"description": "It is the key that makes the request"}}
)
def revoke_key(key_id: str, context: Context, admin: Admin) -> KeyView:
    """Revoke a key: it is refused from now on."""
    with context.database.transaction() as session:
        return _view(
            operations.revoke_key(session, admin.tenant_id, key_id, asked_with=admin.key_id)
        )


def _view(key: ApiKey) -> KeyView:
    return KeyView.model_validate(key, from_attributes=True)
