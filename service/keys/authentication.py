"""FastAPI dependencies that turn the Authorization header into an identity."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.context import Context
from service.keys.operations import Identity, authenticate

bearer = HTTPBearer(auto_error=False, description="An Excise API key, `exc_…`.")


def get_identity(
    context: Context,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)],
) -> Identity:
    """Who makes this request. Raises `UnauthorizedError`."""
    secret = credentials.credentials if credentials else None
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
