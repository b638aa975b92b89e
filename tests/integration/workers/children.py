"""What the supervisor's child processes do in these tests; in a module, as they are spawned."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from psycopg.errors import ProgramLimitExceeded
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from service.database import Database
from service.errors import LeaseLostError
from service.jobs.execution import Claim, finish_job
from service.serving.publications import PublicationClaim
from workers.kinds.leased import LeasedJob, LeasedPublication
from workers.models.watching import tell_generated
from workers.running.leased import HeldRow
from workers.running.measures import STAGE_SECONDS
from workers.running.reporting import REPORT_SECONDS
from workers.settings import WorkerSettings

Act = Callable[[HeldRow, WorkerSettings], None]


@dataclass(frozen=True)
class ActingJob(LeasedJob):
    """A job whose child does what the test requests, in place of its stages."""

    act: Act

    def run(self, database: Database, settings: WorkerSettings, claim: Claim) -> None:
        self.act(claim, settings)


@dataclass(frozen=True)
class ActingPublication(LeasedPublication):
    """A version whose child does what the test requests, in place of building it."""

    act: Act

    def run(self, database: Database, settings: WorkerSettings, claim: PublicationClaim) -> None:
        self.act(claim, settings)


class OversizedJob(LeasedJob):
    """A job whose model or batch does not fit on its GPU."""

    def run(self, database: Database, settings: WorkerSettings, claim: Claim) -> None:
        import torch  # only here, because it would delay the other children

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def fail(self, session: Session, claim: Claim, code: str, message: str) -> None:
        raise AssertionError(f"recorded: {code}, {message}")


def announce(claim: HeldRow, settings: WorkerSettings) -> None:
    """Tell the test the id of this process."""
    path = find_announcement(settings, claim.job_id)
    path.with_suffix(".new").write_text(str(os.getpid()))
    path.with_suffix(".new").rename(path)


def find_announcement(settings: WorkerSettings, job_id: str) -> Path:
    """Return the path of the file in which a child writes its process id."""
    return Path(settings.artifacts).with_name(job_id)


def hang(claim: HeldRow, settings: WorkerSettings) -> None:
    announce(claim, settings)
    time.sleep(600)


def lose_database(claim: HeldRow, settings: WorkerSettings) -> None:
    raise OperationalError("SELECT 1", {}, ConnectionError("gone"))


def be_refused(claim: HeldRow, settings: WorkerSettings) -> None:
    raise OperationalError("INSERT", {}, ProgramLimitExceeded("row is too big"))


def ignore_everything(claim: HeldRow, settings: WorkerSettings) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hang(claim, settings)


def die(claim: HeldRow, settings: WorkerSettings) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def finish(claim: HeldRow, settings: WorkerSettings) -> None:
    database = Database(settings.database_url.get_secret_value())
    with database.transaction() as session:
        finish_job(session, claim.job_id, claim.token, "succeeded", "passed")
    database.dispose()


def finish_and_die(claim: HeldRow, settings: WorkerSettings) -> None:
    finish(claim, settings)
    die(claim, settings)


def count(claim: HeldRow) -> None:
    """Count what a job with one stage would."""
    STAGE_SECONDS.labels(claim.spec.kind, "prepare").observe(7.0)
    tell_generated(10, 0.5)
    tell_generated(20, 1.0)


def count_and_finish(claim: HeldRow, settings: WorkerSettings) -> None:
    count(claim)
    finish(claim, settings)


def count_and_die(claim: HeldRow, settings: WorkerSettings) -> None:
    """Count, and die from a signal after there was time for a report."""
    count(claim)
    time.sleep(REPORT_SECONDS + 1)
    die(claim, settings)


def count_and_hang(claim: HeldRow, settings: WorkerSettings) -> None:
    count(claim)
    hang(claim, settings)


def lose_lease(claim: HeldRow, settings: WorkerSettings) -> None:
    raise LeaseLostError("Another worker has it.")
