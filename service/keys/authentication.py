"""Authentication of requests before their bodies are read; routes get it as a dependency."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send

from service.context import AppContext
from service.errors import ExciseError, UnauthorizedError
from service.gateway.upstream import COMPLETION_PATHS
from service.keys.operations import Identity, authenticate, hash_key
from service.middleware import get_path, is_api_path
from service.parameters import require_single, require_single_fields
from service.problems import DATABASE_OUTAGES, build_outage_response, build_problem_response

bearer = HTTPBearer(auto_error=False, description="An Excise API key, `exc_…`.")


class Authentication:
    """Refuses API requests without a valid key, before any of their body is read.

    Also those whose query or headers contradict themselves.
    """

    def __init__(self, app: ASGIApp, context: AppContext) -> None:
        self._app = app
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, with its caller identified."""
        if scope["type"] != "http" or not is_api_path(get_path(scope)):
            await self._app(scope, receive, send)
            return
        try:
            identity = await self._identify(scope)
            require_single_fields(QueryParams(scope["query_string"]))
        except ExciseError as error:
            await build_problem_response(error)(scope, receive, send)
        except DATABASE_OUTAGES as error:
            await build_outage_response(error)(scope, receive, send)
        else:
            scope.setdefault("state", {})["identity"] = identity
            await self._app(scope, receive, send)

    async def _identify(self, scope: Scope) -> Identity:
        """Return the owner of a request's key; keys for calling models are cached for a moment.

        Raises `UnauthorizedError`, and `InvalidRequestError` for headers that are given twice.
        """
        require_single(Headers(scope=scope))
        secret = _read_secret(scope)

        async def load() -> Identity:
            return await run_in_threadpool(_authenticate, self._context, secret)

        if secret is None or get_path(scope) not in COMPLETION_PATHS:
            return await load()
        return await self._context.gateway.identities.get(hash_key(secret), load)


async def get_identity(
    request: Request,
    _: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)],  # for the schema
) -> Identity:
    """Return the caller of this request. Raises `UnauthorizedError`."""
    identity = getattr(request.state, "identity", None)
    if not isinstance(identity, Identity):  # a path that nobody asked for a key
        raise UnauthorizedError("The request has no API key. Send Authorization: Bearer <key>.")
    return identity


def _read_secret(scope: Scope) -> str | None:
    """Return the key in the Authorization header, or None."""
    header = Headers(scope=scope).get("authorization")
    scheme, secret = get_authorization_scheme_param(header)
    return secret if scheme.lower() == "bearer" and secret else None


def _authenticate(context: AppContext, secret: str | None) -> Identity:
    with context.database.transaction() as session:
        return authenticate(session, secret)


Caller = Annotated[Identity, Depends(get_identity)]


def _get_reader(identity: Caller) -> Identity:
    identity.require_any("submit", "publish")
    return identity


Reader = Annotated[Identity, Depends(_get_reader)]


def _get_submitter(identity: Reader) -> Identity:
    identity.require("submit")
    return identity


def _get_publisher(identity: Reader) -> Identity:
    identity.require("publish")
    return identity


def _get_admin(identity: Reader) -> Identity:
    identity.require("admin")
    return identity


Submitter = Annotated[Identity, Depends(_get_submitter)]
Publisher = Annotated[Identity, Depends(_get_publisher)]
Admin = Annotated[Identity, Depends(_get_admin)]
