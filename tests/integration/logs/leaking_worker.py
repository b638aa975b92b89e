"""A real Celery worker whose jobs log and raise every kind of secret, and fail.

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
    """Print and raise what no log may contain."""
    secret, url = os.environ["SCORER_VALUE"], os.environ["EXCISE_DATABASE_URL"]
    print(f"printed by a library: {secret}", file=sys.stderr)
    raise ValueError(f"{secret} refused; Authorization: Bearer opaque-bearer-T0kenValue; {url}")


class LeakingJob(LeasedJob):
    """A job that runs `leak` in place of its stages, which would load torch."""

    loads = None

    def run(self, database: Database, settings: WorkerSettings, claim: Claim) -> None:
        leak()


# neither in the test nor in a child
if os.environ.get("EXCISE_IS_WORKER") and parent_process() is None:
    app = build_worker(start_process(WorkerSettings, "worker"), [LeakingJob()])
