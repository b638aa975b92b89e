"""The child process of a worker: makes one attempt at a piece of work, and records how it ended."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NoReturn

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.orm import Session

from excise.logs import configure_logging
from service.database import Database
from service.errors import ExciseError, InternalError, LeaseLostError, StoreUnavailableError
from service.tracing import configure_tracing, continue_trace, flush_traces
from workers.models.heap import map_large_blocks
from workers.models.watching import watching_generation
from workers.running.context import CancelledJobError
from workers.running.launching import exit_with_parent
from workers.running.leased import Held, LeasedWork
from workers.running.measures import LEASE_LOSSES, count_generation
from workers.running.reporting import reporting
from workers.settings import WorkerSettings
from workers.stages.context import InvalidInputError

logger = logging.getLogger(__name__)

EXIT_OUT_OF_MEMORY = 72
EXIT_DATABASE_AWAY = 73
EXIT_GAVE_BACK = 74
"""The child gave its work back by itself, as it knows the reason best."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

_AWAY_STATES = ("08", "53", "57P")
"""How the SQLSTATE begins of errors that say nothing about the work: the connection was lost, the
server has no room, or it is being stopped (PostgreSQL's manual, appendix A). A connection that was
never made has none."""


def run_child(
    work: LeasedWork[Held],
    claim: Held,
    settings: WorkerSettings,
    parent: Connection,
    traceparent: str | None,
) -> None:
    """Main function of a child: do the work within its trace and report counts to the parent."""
    configure_logging(settings.log_level, settings.list_secrets())
    configure_tracing("child")
    try:
        with (
            reporting(parent),
            watching_generation(count_generation),
            continue_trace(f"{work.policy.name} work", traceparent, row_id=claim.row_id),
        ):
            run_claimed(work, claim, settings)
    finally:
        flush_traces()


def run_claimed(work: LeasedWork[Held], claim: Held, settings: WorkerSettings) -> None:
    """Do the work and record how it ended; always return normally.

    If the process dies (memory, signal) or the database cannot be reached, the parent records the
    end instead.
    """
    exit_with_parent()
    map_large_blocks()
    fields = work.list_log_fields(claim)
    configure_logging(settings.log_level, settings.list_secrets(), **fields)
    database = Database(settings.database_url.get_secret_value(), pool_size=2, max_overflow=1)
    try:
        _run_recorded(work, claim, database, settings)
    finally:
        database.dispose()


def _run_recorded(
    work: LeasedWork[Held], claim: Held, database: Database, settings: WorkerSettings
) -> None:
    """Do the work; record any error it raises, or exit so that the parent does."""
    name = work.describe(claim)

    def fail(code: str, message: str) -> None:
        _record(database, name, lambda session: work.fail(session, claim, code, message))

    def give_back(reason: str) -> NoReturn:
        logger.exception("%s is given back: %s", name, reason)
        attempts = settings.max_attempts
        _record(
            database,
            name,
            lambda session: work.give_back(session, claim, reason, attempts, counts=True),
        )
        sys.exit(EXIT_GAVE_BACK)

    try:
        work.run(database, settings, claim)
    except LeaseLostError:
        LEASE_LOSSES.labels(work.policy.name).inc()
        logger.warning("%s: lease lost, nothing more is written", name)
    except CancelledJobError:
        _record(database, name, lambda session: work.cancel(session, claim))
    except InvalidInputError as error:
        fail("invalid_input", str(error))
    except StoreUnavailableError as error:  # another attempt may find it in order
        give_back(str(error))
    except ExciseError as error:
        if isinstance(error, InternalError):
            logger.exception("%s failed", name)
        fail(error.code, str(error))
    except (OperationalError, InterfaceError) as error:
        # This decides nothing about the job: once the database is back, another attempt continues
        # it.
        if is_away(error):
            logger.warning("%s ends here: the database has been away for too long", name)
            sys.exit(EXIT_DATABASE_AWAY)
        logger.exception("%s ends here: the database refused", name)
        sys.exit(1)
    except Exception as error:
        if _is_out_of_memory(error):
            # A fresh process may have enough memory, so the parent gives the work back.
            logger.exception("%s ran out of memory", name)
            sys.exit(EXIT_OUT_OF_MEMORY)
        if isinstance(error, OSError) and error.errno in _FULL:
            give_back(f"The worker's disk is full ({error.strerror}). Make room on it.")
        logger.exception("%s failed", name)
        fail("internal", "It failed inside Excise; the worker's log has the details.")


def is_away(error: DBAPIError) -> bool:
    """Return whether the database cannot do anything at present, whoever asks."""
    state = getattr(error.orig, "sqlstate", None)
    return state is None or state.startswith(_AWAY_STATES)


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether the error means that the device or the machine ran out of memory."""
    from workers.models.memory import is_out_of_memory  # loads torch, unless the work already has

    return is_out_of_memory(error)


def _record(database: Database, name: str, write: Callable[[Session], None]) -> None:
    """Record how the work ended, unless the lease is lost."""
    try:
        with database.transaction() as session:
            write(session)
    except LeaseLostError:
        logger.warning("%s: lease lost before its ending was recorded", name)
