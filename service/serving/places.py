"""Places on the servers: reserving one for a version, and advice if all are taken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy.orm import Session

from excise.names import PoolKind
from service.errors import PoolFullError
from service.models import Alias, ModelVersion
from service.serving import repository
from service.serving.pools import ServingPool
from service.serving.versions import retire_superseded

_SHOWN_VERSIONS = 8


def take_place(session: Session, tenant_id: str, pools: Sequence[ServingPool]) -> ServingPool:
    """Return the first pool with room for another version of the tenant.

    Others who want a place there wait until the transaction ends. If all are full, whole
    checkpoints that aliases no longer use are retired. Raises `PoolFullError`.
    """
    for pool in pools:
        repository.lock_pool(session, pool.name)
    if (free := _find_free(session, pools)) is not None:
        return free
    if any(pool.kind == PoolKind.CHECKPOINT for pool in pools):
        for base_model in sorted({pool.base_model for pool in pools}):
            retire_superseded(session, base_model)
        if (free := _find_free(session, pools)) is not None:
            return free
    raise PoolFullError(_describe_full(session, tenant_id, pools))


def _find_free(session: Session, pools: Iterable[ServingPool]) -> ServingPool | None:
    for pool in pools:
        if len(repository.list_holders(session, pool.name)) < pool.capacity:
            return pool
    return None


def _describe_full(session: Session, tenant_id: str, pools: Sequence[ServingPool]) -> str:
    """Return a message with the limit, the tenant's versions that hold places, and the remedy."""
    holders = [version for pool in pools for version in repository.list_holders(session, pool.name)]
    own = [version for version in holders if version.tenant_id == tenant_id]
    aliases = repository.list_aliases_of(session, [version.id for version in own])
    described = [_describe_holder(version, aliases) for version in own[:_SHOWN_VERSIONS]]
    if rest := len(holders) - len(described):
        described.append(f"{rest} more")
    names = " and ".join(pool.name for pool in pools)
    verb, limit = "hold" if len(pools) > 1 else "holds", sum(pool.capacity for pool in pools)
    help_too = (
        ", or start more servers (excise up --serve --serve-checkpoints)"
        if all(pool.kind == PoolKind.CHECKPOINT for pool in pools)
        else ""
    )
    return (
        f"No place is left for another version: {names} {verb} {limit} at most "
        f"({', '.join(described)}). Retire one with POST /v1/versions/{{id}}/retire{help_too}."
    )


def _describe_holder(version: ModelVersion, aliases: Sequence[Alias]) -> str:
    """Return the version and its relation to an alias."""
    for alias in aliases:
        if version.id in {alias.version_id, alias.split_version_id}:
            return f"{version.id} answers for {alias.name}"
        if version.id == alias.previous_version_id:
            return f"{alias.name} can go back to {version.id}"
    return f"{version.id} is {version.status}"
