"""A served version's changes of state, as its reconciler makes them.

Each function takes the served name the reconciler goes by and does nothing if the version has
another one by now, or does not belong on a server any more.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from excise.names import VersionStatus
from service.database import clean_message, fetch_now
from service.errors import PoolFullError
from service.models import ModelVersion
from service.serving import repository
from service.serving.aliases import promote
from service.serving.events import append_event
from service.serving.places import take_place
from service.serving.pools import ServingPool

_NO_CHECKPOINT_POOL = (
    "It fits no adapter of its pool's rank and no pool serves whole checkpoints. "
    "Correct with serving.max_rank, or add such a pool."
)


def give_name(session: Session, version_id: str, served_name: str) -> ModelVersion | None:
    """The version, about to be loaded under a new name; no request reaches it until it is live.

    None when it does not belong on a server any more.
    """
    version = repository.lock_wanted(session, version_id)
    if version is None:
        return None
    _leave_live(session, version, "Its server lost it; it is being put back.")
    version.served_name = served_name
    return version


def suspend_all(session: Session, pool: str, why: str) -> int:
    """Take the pool's live versions out of traffic until their canary has passed again; how many.

    Whatever they were called on their server, they will be called something else.
    """
    count = 0
    for wanted in repository.list_wanted(session, pool):
        version = repository.lock_wanted(session, wanted.id)
        if version is not None and version.status == VersionStatus.LIVE:
            _leave_live(session, version, why)
            version.served_name = None
            count += 1
    return count


def mark_live(session: Session, version_id: str, served_name: str, prompts: int) -> bool:
    """Let requests reach the version, whose canary has passed; whether it came to that.

    The first time, the alias it was published for moves to it.
    """
    found = repository.lock_wanted_with_alias(session, version_id)
    if found is None or found.served_name != served_name:
        return False
    is_first = found.live_at is None
    found.status, found.live_at = VersionStatus.LIVE, fetch_now(session)
    found.error_message = None
    message = f"Its canary passed: {prompts} prompts, base and correction in one batch."
    append_event(session, found, "canary", message, data={"passed": True, "prompts": prompts})
    session.flush()
    if is_first and found.target_alias is not None:
        promote(
            session,
            found.tenant_id,
            found.target_alias,
            found.id,
            key_id=found.api_key_id,
            reason="published for this alias",
        )
    return True


def reject(session: Session, version_id: str, served_name: str | None, problem: str) -> None:
    """The version does not do on its server what it should: no request reaches it.

    One that was never live has failed for good, and the alias it was meant for stays where it
    was. One that was live stays wanted: the next attempt may go better.
    """
    version = repository.lock_wanted(session, version_id)
    if version is None or version.served_name != served_name:
        return
    message = clean_message(problem)
    is_news = version.error_message != message
    version.error_message, version.served_name = message, None
    if version.live_at is None:
        version.status, version.ended_at = VersionStatus.FAILED, fetch_now(session)
        append_event(session, version, "canary", message, data={"passed": False})
    elif is_news:
        version.status = VersionStatus.UNAVAILABLE
        append_event(session, version, "canary", message, data={"passed": False})


def note_problem(session: Session, version_id: str, problem: str) -> None:
    """Say why the version is not on its server yet."""
    version = repository.lock_wanted(session, version_id)
    if version is not None:
        version.error_message = clean_message(problem)


def move_to_checkpoint_pool(
    session: Session, version: ModelVersion, pools: Sequence[ServingPool]
) -> None:
    """Send a version that turned out to be a whole checkpoint to a server for those.

    Without one, or with every one taken, it has failed.
    """
    if not pools:
        reject(session, version.id, version.served_name, _NO_CHECKPOINT_POOL)
        return
    try:
        pool = take_place(session, version.tenant_id, pools)
    except PoolFullError as error:
        problem = f"It is a whole checkpoint. {error.message}"
        reject(session, version.id, version.served_name, problem)
        return
    found = repository.lock_wanted(session, version.id)
    if found is not None:
        found.pool, found.served_name = pool.name, None


def _leave_live(session: Session, version: ModelVersion, why: str) -> None:
    """Take a live version out of traffic."""
    if version.status == VersionStatus.LIVE:
        version.status = VersionStatus.UNAVAILABLE
        append_event(session, version, "unavailable", why)
