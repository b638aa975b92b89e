"""A real Celery worker with the real attribution in small shards, told about by files.

Start with `celery -A tests.integration.workers.relevance_worker worker`; see `shard_worker`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from multiprocessing import parent_process

from service.jobs.execution import Claim
from service.jobs.shards import ShardClaim
from tests.integration.workers.shard_worker import obey
from workers.progress import Advance
from workers.running import child, supervision
from workers.running.loading import CorrectionJobInputs
from workers.running.sharding import ShardedWork
from workers.settings import WorkerSettings

SHARD_TOKENS = 512


def watch_attribution() -> None:
    """Make shards small, and each wait where the test wants it to."""
    from workers.kinds.correction import attribute

    build = attribute.build_work

    def build_watched(inputs: CorrectionJobInputs, parts: Sequence[attribute.Part]) -> ShardedWork:
        work = build(inputs, parts)

        def compute(position: int, advance: Advance) -> bytes:
            obey(inputs._context, position, advance)
            return work.compute(position, advance)

        return ShardedWork(work.sizes, compute)

    attribute.SHARD_TOKENS = SHARD_TOKENS
    attribute.build_work = build_watched


def run_claimed_job(claim: Claim, settings: WorkerSettings) -> None:
    watch_attribution()
    child.run_claimed_job(claim, settings)


def run_claimed_shard(claim: ShardClaim, settings: WorkerSettings) -> None:
    watch_attribution()
    child.run_claimed_shard(claim, settings)


supervision.run_claimed_job = run_claimed_job
supervision.run_claimed_shard = run_claimed_shard

if os.environ.get("EXCISE_IS_WORKER") and parent_process() is None:  # not the test, nor a child
    from workers.app import app  # noqa: F401 - what Celery looks for
