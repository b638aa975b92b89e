"""The spawned child of a worker: one attempt at one job, every ending recorded."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
from multiprocessing.connection import wait

from sqlalchemy.exc import InterfaceError, OperationalError

from service.database import Database
from service.errors import ExciseError, LeaseLostError
from service.jobs.execution import Claim, finish_job
from workers.settings import WorkerSettings

logger = logging.getLogger(__name__)

EXIT_ORPHANED = 71


def run_claimed_job(claim: Claim, settings: WorkerSettings) -> None:
    """Run the job and record how it ended; return normally whatever that was.

    Only a death of the process (memory, signal) leaves the ending to the parent.
    """
    _exit_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # Imported here: the parent never loads torch.
    from workers.tasks.context import CancelledJobError, InvalidInputError, JobContext
    from workers.tasks.pipeline import run_correction

    database = Database(settings.database_url.get_secret_value(), pool_size=2, max_overflow=1)
    try:
        context = JobContext(database, settings, claim)
        run_correction(context)
    except LeaseLostError:
        logger.warning("job %s: lease lost, nothing more is written", claim.job_id)
    except CancelledJobError:
        _finish(database, claim, "cancelled")
    except InvalidInputError as error:
        _finish(database, claim, "failed", "invalid_input", str(error))
    except ExciseError as error:
        _finish(database, claim, "failed", error.code, str(error))
    except (OperationalError, InterfaceError):
        # No verdict on the job: another attempt, once the database is back, goes on from here.
        sys.exit("the database is away")
    except MemoryError:
        # Freed by a fresh process, perhaps: the parent gives the job back.
        sys.exit("out of memory")
    except Exception:
        logger.exception("job %s failed", claim.job_id)
        message = "The job failed inside Excise; the worker's log has the details."
        _finish(database, claim, "failed", "internal", message)
    finally:
        database.dispose()


def _finish(
    database: Database, claim: Claim, status: str, code: str | None = None, message: str = ""
) -> None:
    try:
        with database.transaction() as session:
            finish_job(
                session,
                claim.job_id,
                claim.token,
                status,
                error_code=code,
                error_message=message or None,
            )
    except LeaseLostError:
        logger.warning("job %s: lease lost before its ending was recorded", claim.job_id)


def _exit_with_parent() -> None:
    """End this process as soon as the worker that spawned it is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(EXIT_ORPHANED)

    threading.Thread(target=watch, name="excise-parent-watch", daemon=True).start()
