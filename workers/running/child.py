"""The spawned child of a worker: one attempt at a piece of work, every ending recorded."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import wait

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from excise.logs import configure_logging
from service.database import Database
from service.errors import ExciseError, InternalError, LeaseLostError
from service.jobs.execution import Claim, finish_job
from service.jobs.shards import ShardClaim, fail_by_shard, release_shard
from service.serving.publications import PublicationClaim, fail_publication, release_publication
from workers.settings import WorkerSettings

logger = logging.getLogger(__name__)

EXIT_ORPHANED = 71
EXIT_OUT_OF_MEMORY = 72

_End = Callable[[Session, str, str | None, str | None], None]
"""Records an ending: status, error code and message."""


def run_claimed_job(claim: Claim, settings: WorkerSettings) -> None:
    """Run the job and record how it ended; return normally whatever that was.

    Only a death of the process (memory, signal) leaves the ending to the parent.
    """

    def work(database: Database) -> None:
        # Imported here, as below: the parent never loads torch.
        from workers.kinds.pipeline import run_job
        from workers.running.context import JobContext

        with JobContext(database, settings, claim) as context:
            run_job(context)

    def end(session: Session, status: str, code: str | None, message: str | None) -> None:
        finish_job(
            session, claim.job_id, claim.token, status, error_code=code, error_message=message
        )

    _run_recorded(f"job {claim.job_id}", work, end, settings, job_id=claim.job_id)


def run_claimed_shard(claim: ShardClaim, settings: WorkerSettings) -> None:
    """Do the shard and file its result; return normally whatever happened, as for a job.

    What makes the shard impossible for everyone ends its job.
    """

    def work(database: Database) -> None:
        from workers.kinds.pipeline import run_shard

        run_shard(database, settings, claim)

    def end(session: Session, status: str, code: str | None, message: str | None) -> None:
        if status == "cancelled":
            reason = "The job is to be cancelled."
            release_shard(session, claim.shard_id, claim.token, reason, counts=False)
        else:
            fail_by_shard(session, claim.shard_id, claim.token, code or "internal", message or "")

    ids = {"job_id": claim.job_id, "shard_id": claim.shard_id}
    _run_recorded(claim.shard_id, work, end, settings, **ids)


def run_claimed_publication(claim: PublicationClaim, settings: WorkerSettings) -> None:
    """Build the version and file it; return normally whatever happened, as for a job."""

    def work(database: Database) -> None:
        from workers.kinds.publication.publish import run_publication

        run_publication(database, settings, claim)

    def end(session: Session, status: str, _code: str | None, message: str | None) -> None:
        key = (session, claim.version_id, claim.token)
        if status == "cancelled":
            release_publication(*key, "It was stopped.", counts=False)
        else:
            fail_publication(*key, message or "It could not be built.")

    ids = {"job_id": claim.job_id, "version_id": claim.version_id}
    _run_recorded(claim.version_id, work, end, settings, **ids)


def _run_recorded(
    name: str,
    work: Callable[[Database], None],
    end: _End,
    settings: WorkerSettings,
    **fields: str,
) -> None:
    """Do `work`; what it raises is recorded through `end`, or left to the parent by exiting.

    Every line that is logged meanwhile carries `fields`.
    """
    _exit_with_parent()
    configure_logging(settings.log_level, settings.list_secrets(), **fields)
    from workers.models.memory import is_out_of_memory
    from workers.running.context import CancelledJobError
    from workers.stages.context import InvalidInputError

    database = Database(settings.database_url.get_secret_value(), pool_size=2, max_overflow=1)

    def record(status: str, code: str | None = None, message: str | None = None) -> None:
        try:
            with database.transaction() as session:
                end(session, status, code, message)
        except LeaseLostError:
            logger.warning("%s: lease lost before its ending was recorded", name)

    try:
        work(database)
    except LeaseLostError:
        logger.warning("%s: lease lost, nothing more is written", name)
    except CancelledJobError:
        record("cancelled")
    except InvalidInputError as error:
        record("failed", "invalid_input", str(error))
    except ExciseError as error:
        if isinstance(error, InternalError):
            logger.exception("%s failed", name)
        record("failed", error.code, str(error))
    except (OperationalError, InterfaceError):
        # No verdict on the job: another attempt, once the database is back, goes on from here.
        sys.exit("the database is away")
    except Exception as error:
        if is_out_of_memory(error):
            # Freed by a fresh process, perhaps: the parent gives the work back.
            logger.exception("%s ran out of memory", name)
            sys.exit(EXIT_OUT_OF_MEMORY)
        logger.exception("%s failed", name)
        record("failed", "internal", "It failed inside Excise; the worker's log has the details.")
    finally:
        database.dispose()


def _exit_with_parent() -> None:
    """End this process as soon as the worker that spawned it is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(EXIT_ORPHANED)

    threading.Thread(target=watch, name="excise-parent-watch", daemon=True).start()
