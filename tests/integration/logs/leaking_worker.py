"""A real Celery worker whose jobs fail with every kind of secret in what they log and raise.

Start with `celery -A tests.integration.logs.leaking_worker worker`.
"""

from __future__ import annotations

import os
import sys
from multiprocessing import parent_process
from types import ModuleType

from service.jobs.execution import Claim
from workers.running import child, supervision
from workers.running.context import JobContext
from workers.settings import WorkerSettings


def leak(context: JobContext) -> None:
    """Print and raise what no log may show."""
    secret, url = os.environ["SCORER_VALUE"], os.environ["EXCISE_DATABASE_URL"]
    print(f"printed by a library: {secret}", file=sys.stderr)
    raise ValueError(f"{secret} refused; Authorization: Bearer opaque-bearer-T0kenValue; {url}")


def run_claimed_job(claim: Claim, settings: WorkerSettings) -> None:
    """Run the job with `leak` in the place of the real pipeline, which would load torch."""
    pipeline = ModuleType("workers.kinds.pipeline")
    pipeline.run_job = leak  # type: ignore[attr-defined]
    sys.modules[pipeline.__name__] = pipeline
    child.run_claimed_job(claim, settings)


supervision.run_claimed_job = run_claimed_job

if os.environ.get("EXCISE_IS_WORKER") and parent_process() is None:  # not the test, nor a child
    from workers.app import app  # noqa: F401 - what Celery looks for
