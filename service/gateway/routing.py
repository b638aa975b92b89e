"""Which version on which server answers for a model's name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from excise.names import PoolKind, PoolStatus, VersionStatus
from service.database import Database
from service.errors import NotFoundError, UnavailableError
from service.gateway.cache import ShortCache
from service.models import CALLABLE_STATUSES
from service.serving import repository
from service.serving.aliases import ALIAS
from service.serving.pools import ServingPool, find_pool
from service.serving.versions import VERSION_ID


@dataclass(frozen=True)
class Target:
    """One model on one server."""

    pool: ServingPool
    served_name: str
    """The model's name on the server; a version gets a new name whenever it is loaded."""
    public_name: str
    """The version's id or the base model's name, as used in answers and metrics."""


@dataclass(frozen=True)
class Route:
    """The destination of requests for one name: a target, and optionally a second for a share."""

    target: Target | None
    """None if the name is known but cannot answer; `problem` says why."""
    problem: str = ""
    second: Target | None = None
    second_percent: int = 0

    def pick(self, draw: float) -> Target:
        """Return the target for a random number in [0, 1). Raises `UnavailableError`."""
        if self.second is not None and draw * 100 < self.second_percent:
            return self.second
        if self.target is None:
            raise UnavailableError(self.problem)
        return self.target


class Router:
    """Looks up names in the database and caches the result briefly."""

    def __init__(
        self, database: Database, pools: Sequence[ServingPool], keep_seconds: float
    ) -> None:
        self._database = database
        self._pools = tuple(pools)
        self._routes: ShortCache[Route] = ShortCache(keep_seconds)

    async def find_route(self, tenant_id: str, model: str) -> Route:
        """Return where the tenant's requests for `model` go. Raises `NotFoundError`."""

        async def load() -> Route:
            return await run_in_threadpool(self._load, tenant_id, model)

        return await self._routes.get(f"{tenant_id} {model}", load)

    def forget(self) -> None:
        """Clear the cache after a change; may be called from any thread."""
        self._routes.forget()

    def _load(self, tenant_id: str, model: str) -> Route:
        with self._database.transaction() as session:
            if VERSION_ID.fullmatch(model):
                return self._route_version(session, tenant_id, model)
            if ALIAS.fullmatch(model):
                return self._route_alias(session, tenant_id, model)
            return self._route_base(session, model)

    def _route_alias(self, session: Session, tenant_id: str, name: str) -> Route:
        alias = repository.find_alias(session, tenant_id, name)
        if alias is None:
            raise _unknown(name)
        route = self._route_version(session, tenant_id, alias.version_id)
        if alias.split_version_id is None or alias.split_percent is None:
            return route
        second = self._route_version(session, tenant_id, alias.split_version_id).target
        return Route(route.target, route.problem, second, alias.split_percent if second else 0)

    def _route_version(self, session: Session, tenant_id: str, version_id: str) -> Route:
        version = repository.find_version(session, tenant_id, version_id)
        if version is None or version.status not in CALLABLE_STATUSES:
            raise _unknown(version_id)
        if version.status != VersionStatus.LIVE or version.served_name is None:
            return Route(None, f"{version_id} is not on its server. It is being loaded again.")
        pool = find_pool(self._pools, version.pool)
        if pool is None:
            return Route(None, f"The pool {version.pool} of {version_id} is not configured here.")
        return _route_if_up(session, Target(pool, version.served_name, version.id))

    def _route_base(self, session: Session, model: str) -> Route:
        for pool in self._pools:
            if pool.kind == PoolKind.LORA and pool.base_model == model:
                return _route_if_up(session, Target(pool, pool.served_base, model))
        raise _unknown(model)


def _route_if_up(session: Session, target: Target) -> Route:
    """Return the route to the target, if its server was up when last seen."""
    state = repository.find_pool_state(session, target.pool.name)
    if state is None or state.status != PoolStatus.UP:
        return Route(
            None, f"The server of {target.public_name} is unavailable. Try again in a moment."
        )
    return Route(target)


def _unknown(model: str) -> NotFoundError:
    return NotFoundError(
        f"There is no model {model!r} here. GET /v1/models lists the available ones.",
        param="model",
    )
