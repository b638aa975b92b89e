"""The rules of aliases: what may be promoted, and how every change is recorded and undone.

Every function locks the alias first and versions second, so there are no deadlocks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlalchemy.orm import Session

from excise.names import Verdict, VersionStatus
from service.database import fetch_now
from service.errors import ConflictError, InvalidRequestError
from service.listing import Noun, cut_page
from service.models import Alias, ModelVersion, ServingEvent
from service.serving import repository
from service.serving.events import EventKind, append_event
from service.serving.versions import get_version, retire_superseded

ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}@[A-Za-z0-9][A-Za-z0-9._-]{0,30}")
_ALIAS = Noun("alias", "GET /v1/aliases", ALIAS)


def get_alias(session: Session, tenant_id: str, name: str, *, lock: bool = False) -> Alias:
    """Return the tenant's alias with this name. Raises `NotFoundError`."""
    return _ALIAS.get(name, lambda own: repository.find_alias(session, tenant_id, own, lock=lock))


def promote(
    session: Session,
    tenant_id: str,
    name: str,
    version_id: str,
    *,
    key_id: str | None,
    reason: str | None = None,
) -> Alias:
    """Point the alias at the version; create it if necessary, and end its split.

    Whole checkpoints to which no alias refers any more are retired, because each occupies a server.
    Raises `NotFoundError`, `InvalidRequestError` for an invalid name, and `ConflictError` for a
    version that is not live or whose correction did not pass.
    """
    if not ALIAS.fullmatch(name):
        raise InvalidRequestError(
            "An alias has a name like model@stage: letters, digits, dots, dashes.", param="alias"
        )
    alias = repository.lock_alias(session, tenant_id, name)
    version = get_version(session, tenant_id, version_id, lock=True)
    check_may_serve(version)
    if alias is None:
        made = repository.insert_alias(session, tenant_id, name, version.id)
        message = f"{name} is new and points at {version.id}."
        _record(session, version, "promote", message, made, key_id, reason, None)
        return made
    if alias.version_id == version.id and alias.split_version_id is None:
        return alias
    before = alias.version_id
    if before != version.id:
        alias.previous_version_id, alias.version_id = before, version.id
    alias.split_version_id = alias.split_percent = None
    alias.updated_at = fetch_now(session)
    message = f"{name} moved from {before} to {version.id}."
    _record(session, version, "promote", message, alias, key_id, reason, before)
    retire_superseded(session, version.base_model)
    return alias


def rollback(
    session: Session, tenant_id: str, name: str, *, key_id: str, reason: str | None = None
) -> Alias:
    """Undo the alias's latest change: end its split, or restore the previous version.

    Raises `NotFoundError`, and `ConflictError` if there is nothing to go back to.
    """
    alias = get_alias(session, tenant_id, name, lock=True)
    before = alias.version_id
    if alias.split_version_id is not None:
        message = f"The split of {name} with {alias.split_version_id} ended."
        alias.split_version_id = alias.split_percent = None
    else:
        _go_back(session, alias)
        message = f"{name} went back from {before} to {alias.version_id}."
    alias.updated_at = fetch_now(session)
    version = get_version(session, tenant_id, alias.version_id)
    _record(session, version, "rollback", message, alias, key_id, reason, before)
    return alias


def split(
    session: Session,
    tenant_id: str,
    name: str,
    version_id: str | None,
    percent: int,
    *,
    key_id: str,
    reason: str | None = None,
) -> Alias:
    """Send `percent` per cent of the alias's requests to the version; 0 ends the split.

    Nothing is recorded if they are sent there already. Raises what `promote` does.
    """
    alias = get_alias(session, tenant_id, name, lock=True)
    chosen = None
    if percent:
        chosen = _get_second(session, alias, version_id)
    wanted = (chosen.id if chosen else None, percent or None)
    if wanted == (alias.split_version_id, alias.split_percent):
        return alias
    alias.split_version_id, alias.split_percent = wanted
    alias.updated_at = fetch_now(session)
    version = chosen or get_version(session, tenant_id, alias.version_id)
    message = f"{percent} % of {name} go to {version.id}." if chosen else f"{name} is not split."
    _record(session, version, "split", message, alias, key_id, reason, alias.version_id, percent)
    return alias


def list_events(
    session: Session, tenant_id: str, name: str, after: int, limit: int
) -> tuple[Sequence[ServingEvent], bool]:
    """Return one page of the alias's events, oldest first, and whether there are more.

    They include publications for an alias that does not exist yet.
    """
    page = repository.list_alias_events(session, tenant_id, name, after, limit + 1)
    if not page and not after:
        get_alias(session, tenant_id, name)
    return cut_page(page, limit)


def check_may_serve(version: ModelVersion) -> None:
    """Raise `ConflictError` unless an alias may send requests to the version."""
    if version.verdict != Verdict.PASSED:
        raise ConflictError(
            f"{version.id} comes from a job whose verdict is {version.verdict}, so no alias may "
            "point at it. Call it by its id, or publish a correction that passed."
        )
    if version.status != VersionStatus.LIVE:
        why = f": {version.error_message}" if version.error_message else ""
        raise ConflictError(
            f"{version.id} is {version.status}, not live{why}. "
            "Promote it once its canary has passed."
        )


def _get_second(session: Session, alias: Alias, version_id: str | None) -> ModelVersion:
    """Return the version that shares the alias's traffic. Raises what `promote` does."""
    if version_id is None:
        raise InvalidRequestError("version is required. Name the second one.", param="version")
    version = get_version(session, alias.tenant_id, version_id, lock=True)
    check_may_serve(version)
    if version.id == alias.version_id:
        raise ConflictError(f"{alias.name} already points at {version.id}. Name another version.")
    return version


def _go_back(session: Session, alias: Alias) -> None:
    """Point the alias at its previous version. Raises `ConflictError`."""
    if alias.previous_version_id is None:
        raise ConflictError(f"{alias.name} has no version to go back to. Promote the one you want.")
    check_may_serve(get_version(session, alias.tenant_id, alias.previous_version_id, lock=True))
    alias.version_id, alias.previous_version_id = alias.previous_version_id, None


def _record(
    session: Session,
    version: ModelVersion,
    kind: EventKind,
    message: str,
    alias: Alias,
    key_id: str | None,
    reason: str | None,
    before: str | None,
    percent: int | None = None,
) -> None:
    """Record one change of the alias."""
    append_event(
        session,
        version,
        kind,
        message,
        alias=alias.name,
        key_id=key_id,
        reason=reason,
        from_version_id=before,
        to_version_id=version.id,
        data={} if percent is None else {"percent": percent},
    )
    session.flush()
