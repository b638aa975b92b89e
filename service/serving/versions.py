"""The rules of versions: how to look them up, read their files and take them off their server."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlalchemy.orm import Session

from excise.names import VersionStatus
from service.database import fetch_now
from service.errors import ConflictError, NotFoundError, NotReadyError
from service.listing import Noun, cut_page
from service.models import ENDED_STATUSES, ModelVersion, ServingEvent
from service.serving import repository
from service.serving.events import append_event

VERSION_ID = re.compile(r"mv_[0-9a-f]{24}")
_VERSION = Noun("version", "GET /v1/versions", VERSION_ID)
_UNBUILT = (VersionStatus.QUEUED, VersionStatus.BUILDING)


def get_version(
    session: Session, tenant_id: str, version_id: str, *, lock: bool = False
) -> ModelVersion:
    """Return the tenant's version with this id. Raises `NotFoundError`."""
    return _VERSION.get(
        version_id, lambda own: repository.find_version(session, tenant_id, own, lock=lock)
    )


def list_versions(
    session: Session, tenant_id: str, after: str | None, limit: int
) -> tuple[Sequence[ModelVersion], bool]:
    """Return a page of the tenant's versions, newest first, and whether there are more."""
    last = _VERSION.get_last(after, lambda own: repository.find_version(session, tenant_id, own))
    number = None if last is None else last.number
    return cut_page(repository.list_versions(session, tenant_id, number, limit + 1), limit)


def list_events(
    session: Session, tenant_id: str, version_id: str, after: int, limit: int
) -> tuple[Sequence[ServingEvent], bool]:
    """Return a page of the version's events, oldest first, and whether there are more."""
    version = get_version(session, tenant_id, version_id)
    page = repository.list_version_events(session, tenant_id, version.id, after, limit + 1)
    return cut_page(page, limit)


def get_file(session: Session, tenant_id: str, version_id: str, name: str) -> str:
    """Return the artifact hash of one of the version's files.

    Raises `NotFoundError` and `NotReadyError`.
    """
    version = get_version(session, tenant_id, version_id)
    if (sha256 := version.files.get(name)) is not None:
        return sha256
    if version.status in _UNBUILT:
        raise NotReadyError(f"The version is {version.status} and has no files yet. Try later.")
    raise NotFoundError("The version has no such file. See its files.")


def retire(
    session: Session, tenant_id: str, version_id: str, *, key_id: str, reason: str | None = None
) -> ModelVersion:
    """Retire the version, so that its server unloads it; retiring it twice is no error.

    Raises `NotFoundError`, and `ConflictError` while an alias sends requests to it.
    """
    # lock aliases before versions
    aliases = repository.list_aliases(session, tenant_id, lock=True)
    version = get_version(session, tenant_id, version_id, lock=True)
    if version.status in ENDED_STATUSES:
        return version
    for alias in aliases:
        if version.id in {alias.version_id, alias.split_version_id}:
            raise ConflictError(
                f"{version.id} still answers for {alias.name}. Promote another one first."
            )
        if alias.previous_version_id == version.id:
            alias.previous_version_id = None
    _end(session, version)
    append_event(session, version, "retire", "It was retired.", key_id=key_id, reason=reason)
    session.flush()
    return version


def retire_superseded(session: Session, base_model: str) -> int:
    """Retire whole checkpoints that no alias needs any more; return their number.

    These are checkpoints at which an alias once pointed, and to which no alias now points or can
    roll back. A checkpoint that was only called by its id stays.
    """
    versions = repository.lock_formerly_aliased_checkpoints(session, base_model)
    # Only now, because whoever points an alias to a version locks the version first.
    aliases = repository.list_aliases_of(session, [version.id for version in versions])
    wanted = {
        version_id
        for alias in aliases
        for version_id in (alias.version_id, alias.previous_version_id, alias.split_version_id)
    }
    left = [version for version in versions if version.id not in wanted]
    for version in left:
        _end(session, version)
        message = "It was retired: no alias points at it or can go back to it any more."
        append_event(session, version, "retire", message)
    session.flush()
    return len(left)


def _end(session: Session, version: ModelVersion) -> None:
    """Mark the version as no longer wanted on any server."""
    version.status, version.ended_at = VersionStatus.RETIRED, fetch_now(session)
    version.lease_worker = version.lease_expires_at = None
