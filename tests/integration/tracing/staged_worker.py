"""A real Celery worker whose jobs have two stages that only log.

Start with `celery -A tests.integration.tracing.staged_worker worker`.
"""

from __future__ import annotations

import logging
import os
from multiprocessing import current_process

from service.database import Database
from service.jobs.execution import Claim
from service.settings import start_process
from workers.kinds.leased import LeasedJob
from workers.progress import Progress, Standing
from workers.running.context import JobContext
from workers.running.worker import build_worker
from workers.settings import WorkerSettings

logger = logging.getLogger("staged")


class StagedJob(LeasedJob):
    """A job with empty stages of a correction, because the real ones would load torch."""

    loads = None

    def run(self, database: Database, settings: WorkerSettings, claim: Claim) -> None:
        with JobContext(database, settings, claim) as context:
            for stage in ("prepare", "attribute"):
                context.run_stage(stage, {"stage": stage}, do_nothing)
            context.finish("rejected", "no_effect", "Nothing was done.")


def do_nothing(progress: Progress) -> bytes:
    logger.info("nothing is done")
    progress(Standing(1, 1))
    return b"nothing"


if os.environ.get("EXCISE_IS_WORKER") and current_process().name == "MainProcess":  # not in a child
    app = build_worker(start_process(WorkerSettings, "worker"), [StagedJob()])
