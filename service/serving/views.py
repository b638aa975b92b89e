"""Conversion of serving rows to API objects, without side effects."""

from __future__ import annotations

from excise.resources.serving import AliasView, PoolView, ServingEventView, VersionView
from service.models import Alias, ModelVersion, PoolState, ServingEvent
from service.serving.pools import ServingPool


def view_version(version: ModelVersion) -> VersionView:
    """Return the version object."""
    override = None
    if version.override_reason is not None:
        override = {"reason": version.override_reason, "by": version.override_by}
    files = [{"name": name, "sha256": sha256} for name, sha256 in sorted(version.files.items())]
    return VersionView.model_validate(
        {
            "id": version.id,
            "job": version.job_id,
            "kind": version.kind,
            "base_model": version.base_model,
            "pool": version.pool,
            "status": str(version.status),
            "error": version.error_message,
            "verdict": version.verdict,
            "abilities": version.abilities,
            "override": override,
            "alias": version.target_alias,
            "rank": version.rank,
            "files": files,
            "canary_sha256": version.canary_sha256,
            "created_at": version.created_at,
            "built_at": version.built_at,
            "live_at": version.live_at,
            "ended_at": version.ended_at,
        }
    )


def view_alias(alias: Alias) -> AliasView:
    """Return the alias object."""
    split = None
    if alias.split_version_id is not None:
        split = {"version": alias.split_version_id, "percent": alias.split_percent}
    return AliasView.model_validate(
        {
            "name": alias.name,
            "version": alias.version_id,
            "previous": alias.previous_version_id,
            "split": split,
            "created_at": alias.created_at,
            "updated_at": alias.updated_at,
        }
    )


def view_event(event: ServingEvent) -> ServingEventView:
    """Return the event object."""
    return ServingEventView(
        id=event.id,
        kind=event.kind,
        alias=event.alias,
        version=event.version_id,
        by=event.key_id,
        from_version=event.from_version_id,
        to_version=event.to_version_id,
        reason=event.reason,
        message=event.message,
        data=event.data,
        created_at=event.created_at,
    )


def view_pool(pool: ServingPool, state: PoolState | None) -> PoolView:
    """Return the pool object, without the server's address, which is the operator's."""
    return PoolView.model_validate(
        {
            "name": pool.name,
            "base_model": pool.base_model,
            "kind": pool.kind,
            "capacity": pool.capacity,
            "max_rank": pool.max_rank,
            "status": state.status if state else "unknown",
            "detail": state.detail if state else "It has not been checked yet.",
            "server_version": state.server_version if state else None,
            "checked_at": state.checked_at if state else None,
        }
    )
