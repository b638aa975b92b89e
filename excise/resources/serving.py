"""Versions, aliases and their events on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from excise.names import PoolKind, PoolStatus, VersionKind, VersionStatus
from excise.reports.abilities import AbilityFigures
from excise.specs.common import AliasName, Storable, read_whole

Reason = Annotated[str, Field(min_length=1, max_length=1000, pattern=r"\S"), Storable]
VersionId = Annotated[str, Field(max_length=64, pattern=r"^mv_[0-9a-f]{24}$")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    _read_whole = field_validator("*", mode="before")(read_whole)


class OverrideRequest(_Request):
    """An admin's decision to serve a correction that did not pass."""

    reason: Reason


class PublishRequest(_Request):
    """Request to publish a job's correction."""

    alias: AliasName | None = None
    """The alias that will point at it once its canary has passed."""
    reason: Reason | None = None
    override: OverrideRequest | None = None


class PromoteRequest(_Request):
    """Request to point an alias at a version."""

    version: VersionId
    reason: Reason | None = None


class RollbackRequest(_Request):
    """Request to undo the latest change of an alias."""

    reason: Reason | None = None


class SplitRequest(_Request):
    """Request to send part of an alias's traffic to another version; 0 ends the split."""

    version: VersionId | None = None
    percent: int = Field(ge=0, le=99)
    reason: Reason | None = None


class RetireRequest(_Request):
    """Request to take a version off its server."""

    reason: Reason | None = None


class FileView(BaseModel):
    """One file of a version."""

    name: str
    sha256: str


class OverrideView(BaseModel):
    """Who published a correction that did not pass, and why."""

    reason: str
    by: str | None


class AbilitiesView(BaseModel):
    """How many of the base's abilities the correction kept, from the job's report."""

    able: int
    """Number of measured abilities that the base has; the others are not gated."""
    within: int
    """Number of these that are within their limits."""
    lost: list[AbilityFigures]
    """The abilities that are not, the worst first."""


class VersionView(BaseModel):
    """One published version."""

    id: str
    object: Literal["model_version"] = "model_version"
    job: str
    kind: VersionKind
    base_model: str
    pool: str
    status: VersionStatus
    error: str | None
    verdict: str
    abilities: AbilitiesView | None = None
    """Null if the job measured none, or if the version is older than this field."""
    override: OverrideView | None
    alias: str | None
    """The alias it was published for."""
    rank: int | None
    files: list[FileView]
    canary_sha256: str | None
    created_at: datetime
    built_at: datetime | None
    live_at: datetime | None
    ended_at: datetime | None


class VersionList(BaseModel):
    """One page of versions, newest first."""

    object: Literal["list"] = "list"
    data: list[VersionView]
    has_more: bool


class SplitView(BaseModel):
    """The version that gets part of an alias's traffic."""

    version: str
    percent: int


class AliasView(BaseModel):
    """One alias: the version it points at, and the one a rollback would restore."""

    name: str
    object: Literal["alias"] = "alias"
    version: str
    previous: str | None
    split: SplitView | None
    created_at: datetime
    updated_at: datetime


class AliasList(BaseModel):
    """Every alias, by name."""

    object: Literal["list"] = "list"
    data: list[AliasView]
    has_more: bool = False


class ServingEventView(BaseModel):
    """Something that happened to a version or an alias."""

    id: int
    object: Literal["serving.event"] = "serving.event"
    kind: str
    alias: str | None
    version: str | None
    by: str | None
    """The id of the key that caused it; null if the service did it by itself."""
    from_version: str | None
    to_version: str | None
    reason: str | None
    message: str
    data: dict[str, Any]
    created_at: datetime


class ServingEventList(BaseModel):
    """One page of events, oldest first."""

    object: Literal["list"] = "list"
    data: list[ServingEventView]
    has_more: bool


class PoolView(BaseModel):
    """One serving pool: its settings, and the state in which it was last seen."""

    name: str
    object: Literal["pool"] = "pool"
    base_model: str
    kind: PoolKind
    capacity: int
    max_rank: int
    status: PoolStatus
    detail: str
    server_version: str | None
    checked_at: datetime | None


class PoolList(BaseModel):
    """Every serving pool."""

    object: Literal["list"] = "list"
    data: list[PoolView]
    has_more: bool = False
