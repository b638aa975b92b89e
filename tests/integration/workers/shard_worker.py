"""A real Celery worker whose jobs are one sharded stage of made-up work, controlled through files.

Start with `celery -A tests.integration.workers.shard_worker worker`. The files are in a folder
beside the artifacts: a shard writes `started-<position>-<process>`, waits while there is a
`hold-<position>`, and ends its own process if there is a `kill-<position>`.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from multiprocessing import parent_process
from pathlib import Path

from service.database import Database
from service.jobs.execution import Claim
from service.jobs.shards import ShardClaim
from service.settings import start_process
from workers.kinds.leased import LeasedJob, LeasedShard
from workers.progress import Advance, Counter, Progress
from workers.running.context import JobContext, TaskContext, poll_cancellation
from workers.running.sharding import complete_shard, run_shards
from workers.running.worker import build_worker
from workers.settings import WorkerSettings
from workers.stages.context import ShardedStage, ShardedWork, compute_key

SHARDS = 6


def find_folder(artifacts: str) -> Path:
    return Path(artifacts).with_name("work")


def obey(context: TaskContext, position: int, advance: Advance) -> None:
    """Record that a shard was begun, and do what the test's files ask for."""
    folder = find_folder(context.settings.artifacts)
    (folder / f"started-{position}-{os.getpid()}").touch()
    if (folder / f"kill-{position}").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.3)
    while (folder / f"hold-{position}").exists():
        time.sleep(0.1)
        advance(0)


def digest(position: int) -> bytes:
    """Return the result of the shard at a position."""
    return hashlib.sha256(str(position).encode()).digest()


def build_work(context: TaskContext) -> ShardedWork:
    def compute(position: int, advance: Advance) -> bytes:
        obey(context, position, advance)
        advance(3)
        return digest(position)

    return ShardedWork((3,) * SHARDS, compute)


def run_job(context: JobContext) -> None:
    source = context.store.put_bytes(b"what the stage works from")
    stage = ShardedStage("attribute", compute_key("attribute", {}), source)

    def work(progress: Progress) -> bytes:
        shards = build_work(context)
        return b"".join(run_shards(context, stage, shards, Counter(progress, [shards.part])))

    output = context.run_stage("attribute", {}, work)
    context.publish_file("combined", output.data, "application/octet-stream")
    context.finish("succeeded", "passed", "done")


class MadeUpJob(LeasedJob):
    """A job of made-up work that does not load torch."""

    loads = None

    def run(self, database: Database, settings: WorkerSettings, claim: Claim) -> None:
        with JobContext(database, settings, claim) as context:
            run_job(context)


class MadeUpShard(LeasedShard):
    """A shard of made-up work."""

    loads = None

    def run(self, database: Database, settings: WorkerSettings, claim: ShardClaim) -> None:
        with TaskContext(database, settings, claim) as context:
            assert context.store.get(claim.input_sha256) == b"what the stage works from"
            complete_shard(context, claim, build_work(context), poll_cancellation(context))


# neither in the test nor in a child
if os.environ.get("EXCISE_IS_WORKER") and parent_process() is None:
    app = build_worker(start_process(WorkerSettings, "worker"), [MadeUpJob(), MadeUpShard()])
