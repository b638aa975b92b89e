"""Requests to the REST API about versions, aliases and pools, and how their answers are read."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from excise.client.calls import Call, get, page, post, post_once
from excise.client.errors import ApiError
from excise.names import VersionStatus
from excise.resources.serving import (
    AliasList,
    AliasView,
    PoolList,
    ServingEventList,
    VersionList,
    VersionView,
)

POLL_SECONDS = 0.5
"""Pause between two checks of a version that is not settled."""

_SETTLED = frozenset({VersionStatus.LIVE, VersionStatus.FAILED, VersionStatus.RETIRED})
_MAX_EVENTS = 1000


def publish(
    job_id: str, alias: str | None, reason: str | None, override: str | None, key: str | None
) -> Call[VersionView]:
    """Publish a job's correction."""
    body: dict[str, Any] = {"alias": alias, "reason": reason}
    if override is not None:
        body["override"] = {"reason": override}
    return post_once(VersionView, f"/v1/models/{quote(job_id, safe='')}/publish", body, key)


def is_settled(version: VersionView) -> bool:
    """Return whether a version is live or never will be."""
    return version.status in _SETTLED


def get_version(version_id: str) -> Call[VersionView]:
    """Get the current state of a version."""
    return get(VersionView, _build_version_path(version_id))


def list_versions(after: str | None, limit: int) -> Call[VersionList]:
    """Get one page of versions, newest first."""
    return page(VersionList, "/v1/versions", after, limit)


def list_version_events(version_id: str) -> Call[ServingEventList]:
    """Get a version's events, oldest first."""
    return get(ServingEventList, f"{_build_version_path(version_id)}/events", limit=_MAX_EVENTS)


def retire(version_id: str, reason: str | None) -> Call[VersionView]:
    """Take a version off its server."""
    return post(VersionView, f"{_build_version_path(version_id)}/retire", {"reason": reason})


def list_aliases() -> Call[AliasList]:
    """Get every alias."""
    return get(AliasList, "/v1/aliases")


def get_alias(alias: str) -> Call[AliasView]:
    """Get one alias."""
    return get(AliasView, _build_alias_path(alias))


def is_missing(error: ApiError) -> bool:
    """Return whether the error means that the thing does not exist."""
    return error.status == 404


def promote(alias: str, version_id: str, reason: str | None) -> Call[AliasView]:
    """Point an alias at a version."""
    body = {"version": version_id, "reason": reason}
    return post(AliasView, f"{_build_alias_path(alias)}/promote", body)


def roll_back(alias: str, reason: str | None) -> Call[AliasView]:
    """Undo an alias's latest change. Not repeatable: sent twice, it would go back twice."""
    path = f"{_build_alias_path(alias)}/rollback"
    return post(AliasView, path, {"reason": reason}, is_repeatable=False)


def split(alias: str, version_id: str | None, percent: int, reason: str | None) -> Call[AliasView]:
    """Send `percent` per cent of an alias's requests to a second version."""
    body = {"version": version_id, "percent": percent, "reason": reason}
    return post(AliasView, f"{_build_alias_path(alias)}/split", body)


def list_alias_events(alias: str) -> Call[ServingEventList]:
    """Get an alias's events, oldest first."""
    return get(ServingEventList, f"{_build_alias_path(alias)}/events", limit=_MAX_EVENTS)


def list_pools() -> Call[PoolList]:
    """Get every serving pool."""
    return get(PoolList, "/v1/pools")


def _build_version_path(version_id: str) -> str:
    return f"/v1/versions/{quote(version_id, safe='')}"


def _build_alias_path(alias: str) -> str:
    return f"/v1/aliases/{quote(alias, safe='@')}"
