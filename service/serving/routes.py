"""`/v1/models/{job}/publish`, `/v1/versions`, `/v1/aliases`, `/v1/pools`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from excise.resources.serving import (
    AliasList,
    AliasView,
    PoolList,
    PromoteRequest,
    PublishRequest,
    RetireRequest,
    RollbackRequest,
    ServingEventList,
    SplitRequest,
    VersionList,
    VersionView,
)
from service.context import AppContext, Context
from service.jobs.routes import MAX_EVENT_ID
from service.jobs.streaming import Download
from service.jobs.views import is_known_etag
from service.keys.authentication import Publisher, Reader
from service.keys.operations import Identity
from service.paging import Paging
from service.parameters import IN_DIGITS, IdempotencyKeyHeader, IfNoneMatch
from service.serving import aliases, repository, versions
from service.serving.publishing import publish_job
from service.serving.views import view_alias, view_event, view_pool, view_version
from service.strict_bodies import StrictJsonRoute
from service.tenants.operations import keep_tenant

router = APIRouter(prefix="/v1", tags=["serving"], route_class=StrictJsonRoute)

AfterEvent = Annotated[
    int, Query(ge=0, le=MAX_EVENT_ID, description="Id of the last known event"), IN_DIGITS
]
_CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"description": "The state of aliases or versions does not allow this"}
}
EventLimit = Annotated[int, Query(ge=1, le=1000, description="How many to list"), IN_DIGITS]


@contextmanager
def _changing(context: AppContext, publisher: Identity) -> Iterator[Session]:
    """Open a transaction for a tenant that exists, after which the gateway reloads all names."""
    with context.database.transaction() as session:
        keep_tenant(session, publisher.tenant_id)
        yield session
    context.gateway.router.forget()


@router.post(
    "/models/{job_id}/publish",
    status_code=202,
    responses={
        200: {"model": VersionView, "description": "The version there was already"},
        409: {"description": "The job has not passed, or no pool has a place"},
    },
)
def publish(
    job_id: str,
    context: Context,
    publisher: Publisher,
    response: Response,
    request: PublishRequest | None = None,
    idempotency_key: IdempotencyKeyHeader = None,
) -> VersionView:
    """Publish a job's correction; returns the version, which becomes live later."""
    with _changing(context, publisher) as session:
        version, is_new = publish_job(
            session,
            publisher,
            job_id,
            request or PublishRequest(),
            context.settings.serving_pools,
            context.artifacts,
            idempotency_key,
        )
        response.status_code = 202 if is_new else 200
        response.headers["Location"] = f"/v1/versions/{version.id}"
        return view_version(version)


@router.get("/versions", responses={404: {"description": "No such `after`"}})
def list_versions(context: Context, reader: Reader, page_request: Paging) -> VersionList:
    """List one page of the tenant's versions, newest first."""
    after, limit = page_request.after, page_request.limit
    with context.database.transaction() as session:
        page, has_more = versions.list_versions(session, reader.tenant_id, after, limit)
        return VersionList(data=[view_version(version) for version in page], has_more=has_more)


@router.get("/versions/{version_id}")
def get_version(version_id: str, context: Context, reader: Reader) -> VersionView:
    """Get one version."""
    with context.database.transaction() as session:
        return view_version(versions.get_version(session, reader.tenant_id, version_id))


@router.get("/versions/{version_id}/events")
def list_version_events(
    version_id: str,
    context: Context,
    reader: Reader,
    after: AfterEvent = 0,
    limit: EventLimit = 100,
) -> ServingEventList:
    """List a version's events, oldest first."""
    with context.database.transaction() as session:
        page, has_more = versions.list_events(session, reader.tenant_id, version_id, after, limit)
        return ServingEventList(data=[view_event(event) for event in page], has_more=has_more)


@router.get(
    "/versions/{version_id}/files/{name}",
    response_class=Response,
    responses={
        200: {
            "description": "The file",
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
        },
        304: {"description": "`If-None-Match` has its ETag"},
        409: {"description": "It has not been built yet"},
    },
)
def get_version_file(
    version_id: str,
    name: str,
    context: Context,
    reader: Reader,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Get one of a version's files, as PEFT and vLLM read it."""
    with context.database.transaction() as session:
        sha256 = versions.get_file(session, reader.tenant_id, version_id, name)
    etag = f'"{sha256}"'
    headers = {"ETag": etag, "X-Content-SHA256": sha256}
    if is_known_etag(etag, if_none_match):
        return Response(status_code=304, headers=headers)
    headers["Content-Disposition"] = f'attachment; filename="{name}"'
    headers["Content-Length"] = str(context.artifacts.size(sha256))
    return Download(context, sha256, "application/octet-stream", headers)


@router.post("/versions/{version_id}/retire", responses=_CONFLICT)
def retire_version(
    version_id: str,
    context: Context,
    publisher: Publisher,
    request: RetireRequest | None = None,
) -> VersionView:
    """Remove a version to which no alias points from its server."""
    reason = request.reason if request else None
    with _changing(context, publisher) as session:
        return view_version(
            versions.retire(
                session, publisher.tenant_id, version_id, key_id=publisher.key_id, reason=reason
            )
        )


@router.get("/aliases")
def list_aliases(context: Context, reader: Reader) -> AliasList:
    """List the tenant's aliases, by name."""
    with context.database.transaction() as session:
        found = repository.list_aliases(session, reader.tenant_id)
        return AliasList(data=[view_alias(alias) for alias in found])


@router.get("/aliases/{alias}")
def get_alias(alias: str, context: Context, reader: Reader) -> AliasView:
    """Get one alias."""
    with context.database.transaction() as session:
        return view_alias(aliases.get_alias(session, reader.tenant_id, alias))


@router.post("/aliases/{alias}/promote", responses=_CONFLICT)
def promote_alias(
    alias: str, request: PromoteRequest, context: Context, publisher: Publisher
) -> AliasView:
    """Point an alias at a live version; an alias that does not exist is created."""
    with _changing(context, publisher) as session:
        return view_alias(
            aliases.promote(
                session,
                publisher.tenant_id,
                alias,
                request.version,
                key_id=publisher.key_id,
                reason=request.reason,
            )
        )


@router.post("/aliases/{alias}/rollback", responses=_CONFLICT)
def roll_back_alias(
    alias: str, context: Context, publisher: Publisher, request: RollbackRequest | None = None
) -> AliasView:
    """Undo an alias's latest change: end its split, or return to the previous version."""
    reason = request.reason if request else None
    with _changing(context, publisher) as session:
        return view_alias(
            aliases.rollback(
                session, publisher.tenant_id, alias, key_id=publisher.key_id, reason=reason
            )
        )


@router.post("/aliases/{alias}/split", responses=_CONFLICT)
def split_alias(
    alias: str, request: SplitRequest, context: Context, publisher: Publisher
) -> AliasView:
    """Send part of an alias's requests to a second version."""
    with _changing(context, publisher) as session:
        return view_alias(
            aliases.split(
                session,
                publisher.tenant_id,
                alias,
                request.version,
                request.percent,
                key_id=publisher.key_id,
                reason=request.reason,
            )
        )


@router.get("/aliases/{alias}/events")
def list_alias_events(
    alias: str,
    context: Context,
    reader: Reader,
    after: AfterEvent = 0,
    limit: EventLimit = 100,
) -> ServingEventList:
    """List an alias's events, oldest first: who changed it, when and why."""
    with context.database.transaction() as session:
        page, has_more = aliases.list_events(session, reader.tenant_id, alias, after, limit)
        return ServingEventList(data=[view_event(event) for event in page], has_more=has_more)


@router.get("/pools")
def list_pools(context: Context, _: Reader) -> PoolList:
    """List the serving pools with their last known state."""
    pools = context.settings.serving_pools
    with context.database.transaction() as session:
        states = {state.name: state for state in repository.list_pool_states(session)}
        data = [view_pool(pool, states.get(pool.name)) for pool in pools]
    return PoolList(data=data)
