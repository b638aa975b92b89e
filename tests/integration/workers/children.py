"""What the supervisor's child processes do in these tests; a module, because they are spawned."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch

from service.database import Database
from service.jobs.execution import Claim, finish_job
from workers.running.child import _exit_with_parent, _run_recorded
from workers.settings import WorkerSettings


def announce(claim: Claim, settings: WorkerSettings) -> None:
    """Tell the test which process this is."""
    path = find_announcement(settings, claim.job_id)
    path.with_suffix(".new").write_text(str(os.getpid()))
    path.with_suffix(".new").rename(path)


def find_announcement(settings: WorkerSettings, job_id: str) -> Path:
    """Where a child says its process id."""
    return Path(settings.artifacts).with_name(job_id)


def hang(claim: Claim, settings: WorkerSettings) -> None:
    announce(claim, settings)
    time.sleep(600)


def hang_until_the_parent_dies(claim: Claim, settings: WorkerSettings) -> None:
    _exit_with_parent()
    hang(claim, settings)


def ignore_everything(claim: Claim, settings: WorkerSettings) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hang(claim, settings)


def die(claim: Claim, settings: WorkerSettings) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_out_of_memory(claim: Claim, settings: WorkerSettings) -> None:
    """End as a job does of which a model or a batch does not fit on its GPU."""

    def work(database: Database) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def record(*ending: object) -> None:
        raise AssertionError(f"recorded: {ending}")

    _run_recorded("a job", work, record, settings)


def finish(claim: Claim, settings: WorkerSettings) -> None:
    database = Database(settings.database_url.get_secret_value())
    with database.transaction() as session:
        finish_job(session, claim.job_id, claim.token, "succeeded", "passed")
    database.dispose()


def finish_and_die(claim: Claim, settings: WorkerSettings) -> None:
    finish(claim, settings)
    die(claim, settings)
