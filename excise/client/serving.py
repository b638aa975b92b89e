"""The REST API's serving part, for the commands and the demo."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from excise.client.jobs import ApiError, ExciseClient, parse_answer
from excise.resources.serving import (
    AliasList,
    AliasView,
    PoolList,
    ServingEventList,
    VersionList,
    VersionView,
)

_POLL_SECONDS = 0.5
_SETTLED = frozenset({"live", "failed", "retired"})
_MAX_EVENTS = 1000


class ServingClient(ExciseClient):
    """Publishing, versions, aliases and pools, one method a call; raises as its base does."""

    def publish(
        self,
        job_id: str,
        *,
        alias: str | None = None,
        reason: str | None = None,
        override: str | None = None,
    ) -> VersionView:
        """The version made of the job's correction; one, however often the request was sent."""
        body: dict[str, Any] = {"alias": alias, "reason": reason}
        if override is not None:
            body["override"] = {"reason": override}
        path = f"/v1/models/{quote(job_id, safe='')}/publish"
        headers = {"Idempotency-Key": uuid4().hex}
        return parse_answer(VersionView, self.send("POST", path, json=body, headers=headers))

    def wait_until_settled(
        self, version_id: str, on_change: Callable[[VersionView], None]
    ) -> VersionView:
        """The version, once it is live or never will be."""
        last = None
        while True:
            version = self.get_version(version_id)
            if version.status != last:
                last = version.status
                on_change(version)
            if version.status in _SETTLED:
                return version
            time.sleep(_POLL_SECONDS)

    def get_version(self, version_id: str) -> VersionView:
        """The version as it is now."""
        return parse_answer(VersionView, self.send("GET", _version_path(version_id)))

    def list_versions(self, *, after: str | None = None, limit: int = 20) -> VersionList:
        """One page of versions, newest first."""
        params: dict[str, str | int] = {"limit": limit}
        if after is not None:
            params["after"] = after
        return parse_answer(VersionList, self.send("GET", "/v1/versions", params=params))

    def list_version_events(self, version_id: str) -> ServingEventList:
        """What happened to the version, oldest first."""
        path, params = f"{_version_path(version_id)}/events", {"limit": _MAX_EVENTS}
        return parse_answer(ServingEventList, self.send("GET", path, params=params))

    def retire(self, version_id: str, reason: str | None = None) -> VersionView:
        """The version, to be taken off its server."""
        path = f"{_version_path(version_id)}/retire"
        return parse_answer(VersionView, self.send("POST", path, json={"reason": reason}))

    def list_aliases(self) -> AliasList:
        """Every alias."""
        return parse_answer(AliasList, self.send("GET", "/v1/aliases"))

    def find_alias_target(self, alias: str) -> str | None:
        """The id of the version an alias points at, None if there is no such alias."""
        try:
            return parse_answer(AliasView, self.send("GET", _alias_path(alias))).version
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def promote(self, alias: str, version_id: str, reason: str | None = None) -> AliasView:
        """The alias, pointing at the version."""
        return self._change(alias, "promote", {"version": version_id, "reason": reason})

    def roll_back(self, alias: str, reason: str | None = None) -> AliasView:
        """The alias, its latest change undone. Sent once: sent twice it would go back twice."""
        path = f"{_alias_path(alias)}/rollback"
        answer = self.send("POST", path, is_repeatable=False, json={"reason": reason})
        return parse_answer(AliasView, answer)

    def split(
        self, alias: str, version_id: str | None, percent: int, reason: str | None = None
    ) -> AliasView:
        """The alias, with that many of a hundred requests going to the version."""
        body = {"version": version_id, "percent": percent, "reason": reason}
        return self._change(alias, "split", body)

    def list_alias_events(self, alias: str) -> ServingEventList:
        """What happened to the alias, oldest first."""
        path, params = f"{_alias_path(alias)}/events", {"limit": _MAX_EVENTS}
        return parse_answer(ServingEventList, self.send("GET", path, params=params))

    def list_pools(self) -> PoolList:
        """Every serving pool."""
        return parse_answer(PoolList, self.send("GET", "/v1/pools"))

    def _change(self, alias: str, change: str, body: dict[str, Any]) -> AliasView:
        path = f"{_alias_path(alias)}/{change}"
        return parse_answer(AliasView, self.send("POST", path, json=body))


def _version_path(version_id: str) -> str:
    return f"/v1/versions/{quote(version_id, safe='')}"


def _alias_path(alias: str) -> str:
    return f"/v1/aliases/{quote(alias, safe='@')}"
