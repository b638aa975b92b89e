"""Middleware that sets a request's actor and source for the audit log and the logs."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from excise.logs import bind_log_fields
from service.addresses import find_address
from service.audit.origin import Origin, set_origin
from service.keys.operations import Identity

_IDS = re.compile(r"/(?P<id>(?P<noun>job|ps|mv)_[0-9a-f]{24})(?:/|$)")
_FIELDS = {"job": "job_id", "ps": "prompt_set_id", "mv": "version_id"}


class RequestOrigin:
    """Sets the origin of a request, for the audit log and for every log line about it.

    Runs inside `Authentication`, which identifies the caller. The address is the one that the
    server reports: behind a proxy, uvicorn's `--forwarded-allow-ips` decides which are trusted.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request with its origin set."""
        identity = scope.get("state", {}).get("identity")
        if isinstance(identity, Identity):
            address = find_address(scope)
            set_origin(Origin(identity.key_id, None if address is None else str(address)))
            bind_log_fields(tenant_id=identity.tenant_id, **_find_ids(scope["path"]))
        await self._app(scope, receive, send)


def _find_ids(path: str) -> dict[str, str]:
    """Return the ids in a request's path, log field → id."""
    found = _IDS.search(path)
    return {} if found is None else {_FIELDS[found["noun"]]: found["id"]}
