"""Supervision of leased work: the parent holds the lease, a child process does the work."""

from __future__ import annotations

import logging
import signal
import time
from multiprocessing.process import BaseProcess

from opentelemetry.trace import SpanKind
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from excise.logs import log_fields
from excise.plurals import count_noun
from service.database import Database
from service.errors import LeaseLostError
from service.outages import OutageRecord
from service.tracing import continue_trace, get_traceparent
from workers.running.child import (
    EXIT_DATABASE_AWAY,
    EXIT_GAVE_BACK,
    EXIT_OUT_OF_MEMORY,
    run_child,
)
from workers.running.launching import get_process_context, warm_up
from workers.running.leased import Held, LeasedWork
from workers.running.measures import ATTEMPTS, LEASE_LOSSES, Ending
from workers.running.reporting import ChildReports
from workers.settings import WorkerSettings

logger = logging.getLogger(__name__)

_JOIN_SECONDS = 5.0
_LOOK_SECONDS = 0.5
_SHUTDOWN = "The worker is shutting down."
_DATABASE_AWAY = "The child process lost the database and gave up."


class Supervisor:
    """Claims leased work of any kind and watches over the child that does it.

    A crash of the child ends that attempt, never the worker. The child exits by itself if the
    parent dies, and every write it makes is fenced by the claim's token.
    """

    def __init__(self, database: Database, settings: WorkerSettings, worker_id: str) -> None:
        self._database = database
        self._settings = settings
        self._stopping = False
        self.reports = ChildReports()
        """The children's counts."""
        self.worker_id = worker_id
        self.job_id: str | None = None
        """The current job, for the heartbeat."""
        self.is_warming_up = False
        """Whether it has taken a message and waits until a first child can be started."""

    def stop(self) -> None:
        """Give the running work back at the next check, because the worker is shutting down."""
        self._stopping = True

    def run(self, work: LeasedWork[Held], row_id: str, traceparent: str | None = None) -> None:
        """Claim the row and work on it until this attempt ends, within the given trace.

        Returns at once if there is nothing to do here: the row is taken, done or not wanted.
        """
        self.is_warming_up = True
        try:
            warm_up(self._settings.device)
        finally:
            self.is_warming_up = False
        claim = self._claim(work, row_id)
        if claim is None:
            logger.info("%s is not to be run here", row_id)
            return
        self.job_id = claim.job_id
        try:
            with (
                log_fields(job_id=claim.job_id, tenant_id=claim.tenant_id),
                continue_trace(
                    f"{work.policy.name} attempt",
                    traceparent,
                    SpanKind.CONSUMER,
                    row_id=claim.row_id,
                    attempt=claim.attempt,
                ),
            ):
                logger.info("%s: attempt %d", work.describe(claim), claim.attempt)
                self._run_child(work, claim)
        finally:
            self.job_id = None

    def _claim(self, work: LeasedWork[Held], row_id: str) -> Held | None:
        """Return a claim; wait while the database is unreachable, lest the message be lost."""
        settings, is_away = self._settings, False
        while True:
            try:
                with self._database.transaction() as session:
                    return work.claim(
                        session,
                        row_id,
                        self.worker_id,
                        settings.lease_seconds,
                        settings.max_attempts,
                    )
            except (OperationalError, InterfaceError) as error:
                if self._stopping:
                    raise
                if not is_away:
                    logger.warning("%s not claimed yet: %s", row_id, type(error).__name__)
                is_away = True
                time.sleep(_LOOK_SECONDS)

    def _run_child(self, work: LeasedWork[Held], claim: Held) -> None:
        context = get_process_context(self._settings.device)
        reports, end = context.Pipe(duplex=False)
        child = context.Process(
            target=run_child,
            args=(work, claim, self._settings, end, get_traceparent()),
            name=f"excise-{claim.row_id}",
        )
        child.start()
        end.close()  # only the child may hold this end open, so that the pipe ends with the child
        with self.reports.listening(reports):
            ending, reason = self._watch_to_end(work, claim, child)
        ATTEMPTS.labels(work.policy.name, ending).inc()
        if reason is not None:
            self._give_back(work, claim, reason)

    def _watch_to_end(
        self, work: LeasedWork[Held], claim: Held, child: BaseProcess
    ) -> tuple[Ending, str | None]:
        """Return how the attempt ended, and why to give the work back, if so; no child is left."""
        try:
            return self._watch(work, claim, child)
        except LeaseLostError:
            # Either another worker has the lease, or the child has just ended the work.
            child.join(_JOIN_SECONDS)
            if child.exitcode == 0:
                return "finished", None
            logger.warning("%s: lease lost, ending this attempt", claim.row_id)
            LEASE_LOSSES.labels(work.policy.name).inc()
            return "lost", None
        finally:
            _end(child)

    def _watch(
        self, work: LeasedWork[Held], claim: Held, child: BaseProcess
    ) -> tuple[Ending, str | None]:
        """Renew the lease until the child ends; return how, and why to give the work back, if so.

        Raises `LeaseLostError` if another worker has the lease.
        """
        pause = min(self._settings.heartbeat_seconds, self._settings.lease_seconds / 3)
        renewed_at, outages = time.monotonic(), OutageRecord()
        cancel_seen_at: float | None = None
        while True:
            child.join(min(_LOOK_SECONDS, pause))
            if child.exitcode == 0:
                return "finished", None
            if self._stopping:  # the child may have received the signal as well
                return "given_back", _SHUTDOWN
            if child.exitcode is not None:
                return "given_back", _describe_exit(child.exitcode)
            now = time.monotonic()
            if now - renewed_at < pause:
                continue
            renewed_at = now
            if self._renew(work, claim, outages) and cancel_seen_at is None:
                cancel_seen_at = now
            if self._is_overdue(cancel_seen_at):
                _end(child)
                with self._database.transaction() as session:
                    work.cancel(session, claim)
                return "cancelled", None

    def _renew(self, work: LeasedWork[Held], claim: Held, outages: OutageRecord) -> bool:
        """Renew the lease; return whether the job is to be cancelled.

        Only the first failure and the end of each of the attempt's `outages` are logged.
        """
        try:
            with self._database.transaction() as session:
                is_cancelled = work.renew(session, claim, self._settings.lease_seconds)
        except SQLAlchemyError as error:
            # The database is unreachable: go on. If the lease runs out, the token fences off our
            # writes.
            if outages.note_failure(claim.row_id):
                logger.warning("lease of %s not renewed: %s", claim.row_id, type(error).__name__)
            return False
        if failures := outages.note_success(claim.row_id):
            logger.info(
                "lease of %s renewed again, after %s", claim.row_id, count_noun(failures, "failure")
            )
        return is_cancelled

    def _is_overdue(self, cancel_seen_at: float | None) -> bool:
        """Return whether a cancelled child is still running after its grace period."""
        if cancel_seen_at is None:
            return False
        return time.monotonic() - cancel_seen_at > self._settings.cancel_grace_seconds

    def _give_back(self, work: LeasedWork[Held], claim: Held, reason: str) -> None:
        """Release the work to another worker, unless the child finished it before it ended."""
        counts = reason not in {_SHUTDOWN, _DATABASE_AWAY}
        try:
            with self._database.transaction() as session:
                work.give_back(session, claim, reason, self._settings.max_attempts, counts=counts)
        except LeaseLostError:
            logger.info("%s had ended already", claim.row_id)
        except SQLAlchemyError as error:
            # The sweeper does so once the lease has run out.
            logger.warning("%s not given back: %s", claim.row_id, type(error).__name__)
        else:
            logger.warning("%s given back: %s", claim.row_id, reason)


def _end(child: BaseProcess) -> None:
    """Make sure that the child has ended: ask it, wait, then kill it."""
    if child.exitcode is None:
        child.terminate()
        child.join(_JOIN_SECONDS)
    if child.exitcode is None:
        child.kill()
        child.join()


def _describe_exit(code: int) -> str:
    if code == EXIT_OUT_OF_MEMORY:
        return (
            "The child process ran out of memory. Use a larger device or several (EXCISE_DEVICE), "
            "or, for a job in float32, dtype bfloat16."
        )
    if code == EXIT_DATABASE_AWAY:
        return _DATABASE_AWAY
    if code == EXIT_GAVE_BACK:  # needed only if its own reason was not recorded
        return "The child process gave the work back."
    if code >= 0:
        return f"The child process exited with status {code}."
    name = signal.Signals(-code).name
    hint = " The machine may have run out of memory." if name == "SIGKILL" else ""
    return f"The child process was ended by {name}.{hint}"
