"""A real Celery worker whose jobs fail with every kind of secret in what they log and raise.

Start with `celery -A tests.integration.logs.leaking_worker worker`.
"""

from __future__ import annotations

import os
import sys
from multiprocessing import parent_process

from service.database import Database
from service.jobs.execution import Claim
from service.settings import start_process
from workers.kinds.leased import LeasedJob
from workers.running.worker import build_worker
from workers.settings import WorkerSettings


def leak() -> None:
    """Print and raise what no log may show."""
    secret, url = os.environ["SCORER_VALUE"], os.environ["EXCISE_DATABASE_URL"]
    print(f"printed by a library: {secret}", file=sys.stderr)
    raise ValueError(f"{secret} refused; Authorization: Bearer opaque-bearer-T0kenValue; {url}")


class LeakingJob(LeasedJob):
    """A job that does `leak` in the place of its stages, which would load torch."""

    def run(self, database: Database, settings: WorkerSettings, claim: Claim) -> None:
        leak()


if os.environ.get("EXCISE_IS_WORKER") and parent_process() is None:  # not the test, nor a child
    app = build_worker(start_process(WorkerSettings, "worker"), [LeakingJob()])
