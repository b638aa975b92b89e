"""A real Celery worker with the real attribution in small shards, controlled through files.

Start with `celery -A tests.integration.workers.relevance_worker worker`; see `shard_worker`.
"""

from __future__ import annotations

import os
from multiprocessing import parent_process

from service.database import Database
from service.jobs.execution import Claim
from service.jobs.shards import ShardClaim
from service.settings import start_process
from tests.integration.workers.shard_worker import obey
from workers.correction.results import PreparedCorrection
from workers.kinds.leased import LeasedJob, LeasedShard
from workers.progress import Advance
from workers.running.loading import CorrectionJobInputs
from workers.running.worker import build_worker
from workers.settings import WorkerSettings
from workers.stages.context import ShardedWork

SHARD_TOKENS = 512


def watch_attribution() -> None:
    """Make shards small, and let each wait where the test wants it to."""
    from workers.kinds.correction import attribute

    build = attribute.build_work

    def build_watched(inputs: CorrectionJobInputs, prepared: PreparedCorrection) -> ShardedWork:
        work = build(inputs, prepared)

        def compute(position: int, advance: Advance) -> bytes:
            obey(inputs._context, position, advance)
            return work.compute(position, advance)

        return ShardedWork(work.sizes, compute)

    attribute.SHARD_TOKENS = SHARD_TOKENS
    attribute.build_work = build_watched


class WatchedJob(LeasedJob):
    """A job whose attribution the test can hold."""

    def run(self, database: Database, settings: WorkerSettings, claim: Claim) -> None:
        watch_attribution()
        super().run(database, settings, claim)


class WatchedShard(LeasedShard):
    """A shard that the test can hold."""

    def run(self, database: Database, settings: WorkerSettings, claim: ShardClaim) -> None:
        watch_attribution()
        super().run(database, settings, claim)


# neither in the test nor in a child
if os.environ.get("EXCISE_IS_WORKER") and parent_process() is None:
    app = build_worker(start_process(WorkerSettings, "worker"), [WatchedJob(), WatchedShard()])
