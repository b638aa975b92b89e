"""Running a job in a spawned child: the parent holds the lease, the child does the work."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import time
from multiprocessing.process import BaseProcess

from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from service.database import Database
from service.errors import LeaseLostError
from service.jobs.execution import Claim, claim_job, finish_job, release_job, renew_lease
from workers.settings import WorkerSettings
from workers.tasks.child import run_claimed_job

logger = logging.getLogger(__name__)

_JOIN_SECONDS = 5.0
_LOOK_SECONDS = 0.5
_SHUTDOWN = "The worker is shutting down."


class Supervisor:
    """Claims jobs and watches over the child process that runs each of them.

    A crash in the child ends that attempt, never the worker. The child exits by itself when
    the parent dies, and every write it makes is fenced by the claim's token.
    """

    def __init__(self, database: Database, settings: WorkerSettings, worker_id: str) -> None:
        self._database = database
        self._settings = settings
        self._stopping = False
        self.worker_id = worker_id
        self.job_id: str | None = None
        """The job being run, for the heartbeat."""

    def stop(self) -> None:
        """Give the running job back to the queue at the next look, because the worker ends."""
        self._stopping = True

    def run(self, job_id: str) -> None:
        """Claim the job and run it to the end of this attempt; return at once if it is taken."""
        claim = self._claim(job_id)
        if claim is None:
            logger.info("job %s is not to be run here", job_id)
            return
        self.job_id = job_id
        try:
            self._run_claimed(claim)
        finally:
            self.job_id = None

    def _claim(self, job_id: str) -> Claim | None:
        """A claim on the job; an outage of the database is waited out, or its message were lost."""
        while True:
            try:
                with self._database.transaction() as session:
                    return claim_job(
                        session,
                        job_id,
                        self.worker_id,
                        self._settings.lease_seconds,
                        self._settings.max_attempts,
                    )
            except (OperationalError, InterfaceError) as error:
                if self._stopping:
                    raise
                logger.warning("job %s not claimed yet: %s", job_id, type(error).__name__)
                time.sleep(_LOOK_SECONDS)

    def _run_claimed(self, claim: Claim) -> None:
        logger.info("job %s: attempt %d", claim.job_id, claim.attempt)
        context = multiprocessing.get_context("spawn")
        child = context.Process(
            target=run_claimed_job, args=(claim, self._settings), name=f"excise-{claim.job_id}"
        )
        child.start()
        try:
            reason = self._watch(claim, child)
        except LeaseLostError:
            # Either another worker has the job, or the child ended it a moment ago.
            child.join(_JOIN_SECONDS)
            if child.exitcode != 0:
                logger.warning("job %s: lease lost, ending this attempt", claim.job_id)
            return
        finally:
            _end(child)
        if reason is not None:
            self._give_back(claim, reason)

    def _watch(self, claim: Claim, child: BaseProcess) -> str | None:
        """Renew the lease until the child ends; why the job must be given back, or None.

        Raises `LeaseLostError` when another worker has the job.
        """
        pause = min(self._settings.heartbeat_seconds, self._settings.lease_seconds / 3)
        renewed_at = time.monotonic()
        cancel_seen_at: float | None = None
        while True:
            child.join(min(_LOOK_SECONDS, pause))
            if child.exitcode == 0:
                return None
            if self._stopping:  # the signal may have reached the child as well
                return _SHUTDOWN
            if child.exitcode is not None:
                return _describe_exit(child.exitcode)
            now = time.monotonic()
            if now - renewed_at < pause:
                continue
            renewed_at = now
            if self._renew(claim) and cancel_seen_at is None:
                cancel_seen_at = now
            if self._is_overdue(cancel_seen_at):
                _end(child)
                self._finish_cancelled(claim)
                return None

    def _renew(self, claim: Claim) -> bool:
        """Renew the lease; whether the job is to be cancelled."""
        try:
            with self._database.transaction() as session:
                return renew_lease(session, claim.job_id, claim.token, self._settings.lease_seconds)
        except SQLAlchemyError as error:
            # The database is away: go on; should the lease run out, the token fences us off.
            logger.warning("lease of %s not renewed: %s", claim.job_id, type(error).__name__)
            return False

    def _is_overdue(self, cancel_seen_at: float | None) -> bool:
        """Whether a cancelled child had its grace and still runs."""
        if cancel_seen_at is None:
            return False
        return time.monotonic() - cancel_seen_at > self._settings.cancel_grace_seconds

    def _finish_cancelled(self, claim: Claim) -> None:
        with self._database.transaction() as session:
            finish_job(session, claim.job_id, claim.token, "cancelled")

    def _give_back(self, claim: Claim, reason: str) -> None:
        """Queue the job again, unless the child finished it before it ended."""
        try:
            with self._database.transaction() as session:
                release_job(
                    session,
                    claim.job_id,
                    claim.token,
                    reason,
                    self._settings.max_attempts,
                    counts=reason != _SHUTDOWN,
                )
        except LeaseLostError:
            logger.info("job %s had ended already", claim.job_id)
        except SQLAlchemyError as error:
            # Once the lease has run out the sweeper does it.
            logger.warning("job %s not given back: %s", claim.job_id, type(error).__name__)
        else:
            logger.warning("job %s given back: %s", claim.job_id, reason)


def _end(child: BaseProcess) -> None:
    """Make sure the child is gone: ask, wait, kill."""
    if child.exitcode is None:
        child.terminate()
        child.join(_JOIN_SECONDS)
    if child.exitcode is None:
        child.kill()
        child.join()


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"The job's process exited with status {code}."
    name = signal.Signals(-code).name
    hint = " The machine may have run out of memory." if name == "SIGKILL" else ""
    return f"The job's process was ended by {name}.{hint}"
