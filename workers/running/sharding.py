"""A stage's work in shards: the job's own worker computes them, and other workers help.

It does not matter where a shard is computed: each depends only on its position, and the results are
combined in order of position.
"""

from __future__ import annotations

import logging
import time
from collections import Counter as Tally
from collections.abc import Sequence
from functools import partial

from excise.plurals import count_noun
from service.artifacts import ArtifactStore
from service.errors import ArtifactNotFoundError, LeaseLostError
from service.jobs.shards import (
    ShardClaim,
    ShardState,
    claim_next_shard,
    file_shard,
    list_shards,
    open_shards,
    reopen_shard,
)
from workers.progress import Advance, Counter
from workers.running.context import JobContext, TaskContext
from workers.stages.context import ShardedStage, ShardedWork

logger = logging.getLogger(__name__)

WAIT_SECONDS = 0.5
"""Pause between two checks while other workers hold every unfinished shard."""


def run_shards(
    context: JobContext, stage: ShardedStage, work: ShardedWork, counter: Counter
) -> list[bytes]:
    """Return the result of every shard, in order, whichever worker computes it.

    `counter`, which must expect `work.part` next, also counts what other workers finish.

    Shards finished by an earlier attempt or by another worker are not repeated, and those of a
    worker that stopped responding are taken over. Raises `CancelledJobError` and `LeaseLostError`.
    """
    _open(context, stage, len(work.sizes))
    earlier = _count_done(_list(context, stage), work.sizes)
    counter.skip(earlier)
    shared = _SharedCount(counter, earlier, sum(work.sizes))
    while True:
        states = _list(context, stage)
        done = _count_done(states, work.sizes)
        shared.reach(done)
        if all(state.result_sha256 is not None for state in states):
            results = _collect(context, states)
            if results is not None:
                _tell_workers(context, stage, states)
                return results
            continue
        claim = _claim(context, stage)
        if claim is None:
            time.sleep(WAIT_SECONDS)
            context.check_cancelled()
        else:
            _run(context, claim, work, shared.count_from(done))


def complete_shard(
    context: TaskContext, claim: ShardClaim, work: ShardedWork, advance: Advance
) -> None:
    """Compute the claimed shard and store its result. Raises `LeaseLostError`."""

    def write(sha256: str) -> None:
        context.transact(lambda session: file_shard(session, claim.shard_id, claim.token, sha256))

    context.keep(work.compute(claim.position, advance), write)


class _SharedCount:
    """Counts the work of several workers, as seen by one of them."""

    def __init__(self, counter: Counter, done: float, total: float) -> None:
        """Start with `done` of `total` units counted."""
        self._counter = counter
        self._done = done
        self._total = total

    def reach(self, done: float) -> None:
        """Raise the count to `done` units in all; the count never goes down."""
        further = max(min(done, self._total) - self._done, 0.0)
        self._done += further
        self._counter(further)

    def count_from(self, done: float) -> Advance:
        """Return a callback for units done here, where `done` units are already finished."""

        def advance(units: float) -> None:
            nonlocal done
            done += units
            self.reach(done)

        return advance


def _run(context: JobContext, claim: ShardClaim, work: ShardedWork, advance: Advance) -> None:
    try:
        complete_shard(context, claim, work, advance)
    except LeaseLostError:
        # Another worker has taken the shard over. If the job is lost as well, the next write
        # raises.
        logger.warning("%s: the shard was taken over meanwhile", claim.shard_id)


def _open(context: JobContext, stage: ShardedStage, count: int) -> None:
    claim = context.claim
    context.transact(
        lambda session: open_shards(
            session, claim.job_id, claim.token, stage.name, stage.key, stage.input_sha256, count
        )
    )


def _list(context: JobContext, stage: ShardedStage) -> list[ShardState]:
    claim = context.claim
    return context.transact(
        lambda session: list_shards(session, claim.job_id, claim.token, stage.name, stage.key)
    )


def _claim(context: JobContext, stage: ShardedStage) -> ShardClaim | None:
    claim, settings = context.claim, context.settings
    return context.transact(
        lambda session: claim_next_shard(
            session,
            claim.job_id,
            claim.token,
            stage.name,
            stage.key,
            settings.lease_seconds,
            settings.max_attempts,
        )
    )


def _collect(context: JobContext, states: Sequence[ShardState]) -> list[bytes] | None:
    """Return the results, or None if a shard's file is missing, after putting that shard back."""
    results: list[bytes] = []
    for state in states:
        sha256 = state.result_sha256
        assert sha256 is not None
        try:
            results.append(context.reach(partial(ArtifactStore.get, sha256=sha256)))
        except ArtifactNotFoundError:
            _reopen(context, state)
            return None
    return results


def _reopen(context: JobContext, state: ShardState) -> None:
    claim = context.claim
    context.transact(
        lambda session: reopen_shard(session, claim.job_id, claim.token, state.shard_id)
    )


def _count_done(states: Sequence[ShardState], sizes: Sequence[int]) -> int:
    return sum(sizes[state.position] for state in states if state.result_sha256 is not None)


def _tell_workers(context: JobContext, stage: ShardedStage, states: Sequence[ShardState]) -> None:
    workers = Tally(state.worker or "unknown" for state in states)
    context.event(
        "stage.combined",
        f"Stage {stage.name}: {count_noun(len(states), 'shard')} by "
        f"{count_noun(len(workers), 'worker')} put together.",
        {"stage": stage.name, "shards": len(states), "workers": dict(workers)},
    )
