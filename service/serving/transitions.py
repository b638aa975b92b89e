"""State changes of served versions, made by the reconciler.

Each function takes the served name that the reconciler knows, and does nothing if the version has
another name by now or no longer belongs on a server.
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
    """Give the version the name under which it is about to be loaded, and return it.

    No request reaches it until it is live. Returns None if it no longer belongs on a server.
    """
    version = repository.lock_wanted(session, version_id)
    if version is None:
        return None
    _leave_live(session, version, "Its server lost it; it is being loaded again.")
    version.served_name = served_name
    return version


def suspend_all(session: Session, pool: str, why: str) -> int:
    """Suspend the pool's live versions until their canaries pass again; return their number.

    They will get new names on their server.
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
    """Make the version live after its canary passed; return whether it became live.

    The first time, the alias for which it was published moves to it.
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
    """Stop requests to the version, because it does not answer on its server as it should.

    A version that was never live has failed for good, and the alias for which it was published
    does not move. One that was live before is tried again.
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
    """Record why the version is not on its server yet."""
    version = repository.lock_wanted(session, version_id)
    if version is not None:
        version.error_message = clean_message(problem)


def move_to_checkpoint_pool(
    session: Session, version: ModelVersion, pools: Sequence[ServingPool]
) -> None:
    """Move a version that turned out to be a whole checkpoint to a pool for checkpoints.

    If there is no free one, the version fails.
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
    """Make a live version unavailable."""
    if version.status == VersionStatus.LIVE:
        version.status = VersionStatus.UNAVAILABLE
        append_event(session, version, "unavailable", why)
