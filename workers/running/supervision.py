"""Running leased work in a spawned child: the parent holds the lease, the child works."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from excise.logs import log_fields
from service.database import Database
from service.errors import LeaseLostError
from service.jobs.execution import claim_job
from service.jobs.shards import claim_shard
from service.serving.publications import claim_publication
from workers.running.child import (
    EXIT_OUT_OF_MEMORY,
    run_claimed_job,
    run_claimed_publication,
    run_claimed_shard,
)
from workers.running.leased import LeasedJob, LeasedPublication, LeasedShard, LeasedWork
from workers.settings import WorkerSettings

logger = logging.getLogger(__name__)

_JOIN_SECONDS = 5.0
_LOOK_SECONDS = 0.5
_SHUTDOWN = "The worker is shutting down."

_Claim = TypeVar("_Claim")


class Supervisor:
    """Claims jobs, shards and versions, and watches over the child that does each of them.

    A crash in the child ends that attempt, never the worker. The child exits by itself when
    the parent dies, and every write it makes is fenced by the claim's token.
    """

    def __init__(self, database: Database, settings: WorkerSettings, worker_id: str) -> None:
        self._database = database
        self._settings = settings
        self._stopping = False
        self.worker_id = worker_id
        self.job_id: str | None = None
        """The job being worked on, for the heartbeat."""

    def stop(self) -> None:
        """Give back what is running at the next look, because the worker ends."""
        self._stopping = True

    def run(self, job_id: str) -> None:
        """Claim the job and run it to the end of this attempt; return at once if it is taken."""
        worker, settings = self.worker_id, self._settings
        claim = self._claim(
            lambda session: claim_job(
                session, job_id, worker, settings.lease_seconds, settings.max_attempts
            ),
            job_id,
        )
        if claim is not None:
            logger.info("job %s: attempt %d", job_id, claim.attempt)
            self._run(LeasedJob(run_claimed_job, claim))

    def run_shard(self, shard_id: str) -> None:
        """Claim the shard and do it; return at once if it is taken, done or not needed."""
        worker, settings = self.worker_id, self._settings
        claim = self._claim(
            lambda session: claim_shard(
                session, shard_id, worker, settings.lease_seconds, settings.max_attempts
            ),
            shard_id,
        )
        if claim is not None:
            logger.info("%s of %s: attempt %d", shard_id, claim.job_id, claim.attempt)
            self._run(LeasedShard(run_claimed_shard, claim))

    def run_publication(self, version_id: str) -> None:
        """Claim the version and build it; return at once if it is taken, built or not wanted."""
        worker, settings = self.worker_id, self._settings
        claim = self._claim(
            lambda session: claim_publication(
                session, version_id, worker, settings.lease_seconds, settings.max_attempts
            ),
            version_id,
        )
        if claim is not None:
            logger.info("%s of %s: attempt %d", version_id, claim.job_id, claim.attempt)
            self._run(LeasedPublication(run_claimed_publication, claim))

    def _claim(self, operation: Callable[[Session], _Claim | None], name: str) -> _Claim | None:
        """A claim; an outage of the database is waited out, or its message were lost."""
        while True:
            try:
                with self._database.transaction() as session:
                    claim = operation(session)
            except (OperationalError, InterfaceError) as error:
                if self._stopping:
                    raise
                logger.warning("%s not claimed yet: %s", name, type(error).__name__)
                time.sleep(_LOOK_SECONDS)
            else:
                if claim is None:
                    logger.info("%s is not to be run here", name)
                return claim

    def _run(self, work: LeasedWork) -> None:
        self.job_id = work.job_id
        try:
            with log_fields(job_id=work.job_id):
                self._run_child(work)
        finally:
            self.job_id = None

    def _run_child(self, work: LeasedWork) -> None:
        context = multiprocessing.get_context("spawn")
        child = context.Process(
            target=work.run, args=(work.claim, self._settings), name=f"excise-{work.name}"
        )
        child.start()
        try:
            reason = self._watch(work, child)
        except LeaseLostError:
            # Either another worker has it, or the child ended it a moment ago.
            child.join(_JOIN_SECONDS)
            if child.exitcode != 0:
                logger.warning("%s: lease lost, ending this attempt", work.name)
            return
        finally:
            _end(child)
        if reason is not None:
            self._give_back(work, reason)

    def _watch(self, work: LeasedWork, child: BaseProcess) -> str | None:
        """Renew the lease until the child ends; why the work must be given back, or None.

        Raises `LeaseLostError` when another worker has it.
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
            if self._renew(work) and cancel_seen_at is None:
                cancel_seen_at = now
            if self._is_overdue(cancel_seen_at):
                _end(child)
                with self._database.transaction() as session:
                    work.cancel(session)
                return None

    def _renew(self, work: LeasedWork) -> bool:
        """Renew the lease; whether the job is to be cancelled."""
        try:
            with self._database.transaction() as session:
                return work.renew(session, self._settings.lease_seconds)
        except SQLAlchemyError as error:
            # The database is away: go on; should the lease run out, the token fences us off.
            logger.warning("lease of %s not renewed: %s", work.name, type(error).__name__)
            return False

    def _is_overdue(self, cancel_seen_at: float | None) -> bool:
        """Whether a cancelled child had its grace and still runs."""
        if cancel_seen_at is None:
            return False
        return time.monotonic() - cancel_seen_at > self._settings.cancel_grace_seconds

    def _give_back(self, work: LeasedWork, reason: str) -> None:
        """Let another worker have the work, unless the child finished it before it ended."""
        counts = reason != _SHUTDOWN
        try:
            with self._database.transaction() as session:
                work.give_back(session, reason, self._settings.max_attempts, counts)
        except LeaseLostError:
            logger.info("%s had ended already", work.name)
        except SQLAlchemyError as error:
            # Once the lease has run out the sweeper does it.
            logger.warning("%s not given back: %s", work.name, type(error).__name__)
        else:
            logger.warning("%s given back: %s", work.name, reason)


def _end(child: BaseProcess) -> None:
    """Make sure the child is gone: ask, wait, kill."""
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
    if code >= 0:
        return f"The child process exited with status {code}."
    name = signal.Signals(-code).name
    hint = " The machine may have run out of memory." if name == "SIGKILL" else ""
    return f"The child process was ended by {name}.{hint}"
