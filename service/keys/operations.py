"""The rules of API keys."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from service.audit.recording import record
from service.database import fetch_now
from service.errors import ConflictError, ForbiddenError, NotFoundError, UnauthorizedError
from service.keys import repository
from service.models import ApiKey, new_id

KEY_PREFIX = "exc_"
ALL_SCOPES = ("submit", "publish", "infer", "admin")
_KEY = re.compile(r"exc_[A-Za-z0-9_-]{43}")
_KEY_ID = re.compile(r"key_[0-9a-f]{24}")
_SHOWN_CHARACTERS = 8


@dataclass(frozen=True)
class Identity:
    """The caller of a request: a tenant, and the key it used."""

    tenant_id: str
    key_id: str
    scopes: frozenset[str]

    def require(self, scope: str) -> None:
        """Raise `ForbiddenError` unless the key has `scope` or `admin`, which covers all."""
        self.require_any(scope)

    def require_any(self, *scopes: str) -> None:
        """Raise `ForbiddenError` unless the key has one of `scopes`, or `admin`."""
        if not self.scopes & {*scopes, "admin"}:
            wanted = " or ".join(map(repr, scopes))
            raise ForbiddenError(f"The API key lacks the scope {wanted}. Use a key that has it.")

    @property
    def is_inference_only(self) -> bool:
        """Whether the key may only call models, as an application's key does."""
        return self.scopes <= {"infer"}

    @property
    def is_admin(self) -> bool:
        """Whether the key may do everything in its tenant."""
        return "admin" in self.scopes


def create_key(
    session: Session, tenant_id: str, name: str, scopes: Sequence[str]
) -> tuple[ApiKey, str]:
    """Return the row of a new key, and the key itself, which is not stored."""
    if unknown := set(scopes) - set(ALL_SCOPES):
        raise ValueError(f"Unknown scopes {sorted(unknown)}; known are {', '.join(ALL_SCOPES)}.")
    secret = KEY_PREFIX + secrets.token_urlsafe(32)
    key = ApiKey(
        id=new_id("key"),
        tenant_id=tenant_id,
        name=name,
        sha256=hash_key(secret),
        prefix=secret[:_SHOWN_CHARACTERS],
        scopes=sorted(set(scopes)),
    )
    repository.add_key(session, key)
    record(session, tenant_id, "key.create", key.id, {"name": name, "scopes": key.scopes})
    return key, secret


def create_tenant_key(
    session: Session, tenant_name: str, name: str, scopes: Sequence[str] = ALL_SCOPES
) -> str:
    """Return a new key of the tenant `tenant_name`, created if needed: for bootstrapping."""
    tenant_id = repository.ensure_tenant(session, tenant_name)
    return create_key(session, tenant_id, name, scopes)[1]


def authenticate(session: Session, secret: str | None) -> Identity:
    """Return the owner of the key `secret`. Raises `UnauthorizedError`."""
    if secret is None:
        raise UnauthorizedError("The request has no API key. Send Authorization: Bearer <key>.")
    key = repository.find_valid_key(session, hash_key(secret)) if _KEY.fullmatch(secret) else None
    if key is None:
        raise UnauthorizedError("The API key is unknown or revoked. Ask an admin for a new one.")
    repository.touch_key(session, key.id)
    return Identity(tenant_id=key.tenant_id, key_id=key.id, scopes=frozenset(key.scopes))


def revoke_key(
    session: Session, tenant_id: str, key_id: str, *, asked_with: str | None = None
) -> ApiKey:
    """Revoke a key of the tenant and return it.

    `asked_with` is the id of the requesting key, which cannot revoke itself: its holder would be
    locked out. Raises `NotFoundError` and `ConflictError`.
    """
    key = None
    if _KEY_ID.fullmatch(key_id):
        key = repository.find_key(session, tenant_id, key_id)
    if key is None:
        raise NotFoundError("There is no such API key.")
    if key.id == asked_with:
        raise ConflictError(
            "A key cannot revoke itself. Create another key and use it to revoke this one."
        )
    if key.revoked_at is None:
        key.revoked_at = fetch_now(session)
        record(session, tenant_id, "key.revoke", key.id, {"name": key.name})
    session.flush()
    return key


def hash_key(secret: str) -> str:
    """Return the hash of a key, which is all that is stored.

    Keys are random, so a hash without salt is enough.
    """
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
