"""API keys on the wire. The key itself appears only in the response that created it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from excise.names import KeyScope
from excise.specs.common import OneOf

KeyName = Annotated[
    str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")
]


class KeyRequest(BaseModel):
    """Name and scopes of a new key."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: KeyName
    scopes: list[OneOf[KeyScope]] = Field(min_length=1, max_length=4, fail_fast=True)


class KeyView(BaseModel):
    """One API key, without its secret."""

    id: str
    object: Literal["api_key"] = "api_key"
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


class NewKeyView(KeyView):
    """A new key; `key` is shown only this once."""

    key: str


class KeyList(BaseModel):
    """All keys of a tenant, newest first."""

    object: Literal["list"] = "list"
    data: list[KeyView]
    has_more: bool = False
