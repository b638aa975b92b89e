"""Who makes a request, noted for the audit log and the logs."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from excise.logs import bind_log_fields
from service.audit.origin import Origin, set_origin
from service.keys.operations import Identity

_IDS = re.compile(r"/(?P<id>(?P<noun>job|ps|mv)_[0-9a-f]{24})(?:/|$)")
_FIELDS = {"job": "job_id", "ps": "prompt_set_id", "mv": "version_id"}


class RequestOrigin:
    """Notes who makes a request, for the audit log and for every line that is logged about it.

    Inside of `Authentication`, which finds out. The address is what the server was told: behind a
    proxy, uvicorn's `--forwarded-allow-ips` decides whom to believe.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, its origin known."""
        identity = scope.get("state", {}).get("identity")
        if isinstance(identity, Identity):
            client = scope.get("client")
            set_origin(Origin(identity.key_id, client[0] if client else None))
            bind_log_fields(tenant_id=identity.tenant_id, **_find_ids(scope["path"]))
        await self._app(scope, receive, send)


def _find_ids(path: str) -> dict[str, str]:
    """What a request is about, by its path: log field → id."""
    found = _IDS.search(path)
    return {} if found is None else {_FIELDS[found["noun"]]: found["id"]}
