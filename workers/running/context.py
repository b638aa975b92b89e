"""What every stage of a running job needs: its claim, storage, progress and cancellation."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.orm import Session

from excise.estimates.estimate import JobEstimate
from service.artifacts import ArtifactStore, open_artifact_store
from service.database import Database, fetch_now
from service.errors import ArtifactNotFoundError, StoreUnavailableError
from service.jobs.execution import (
    Claim,
    attach_artifact,
    drop_finding,
    file_estimate,
    file_finding,
    find_stage_result,
    finish_job,
    finish_stage,
    is_cancel_requested,
    load_stage_seconds,
    record_event,
    replace_finding,
    report_progress,
    set_estimated_finish,
    skip_stage,
    start_stage,
)
from service.jobs.intermediates import discard_artifact
from service.tracing import step
from workers.progress import Advance, Counter, Progress, Standing
from workers.running.estimate import Spent, estimate_job_seconds
from workers.running.leased import HeldRow
from workers.running.measures import STAGE_SECONDS
from workers.settings import WorkerSettings
from workers.stages.context import (
    ShardedStage,
    ShardedWork,
    StageContext,
    StageOutput,
    compute_key,
)

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 1.0
"""Shortest time between two progress writes of one stage."""

OUTAGE_PAUSE_SECONDS = 0.5
"""Pause between two attempts while the database or the artifact store is unreachable."""

_Result = TypeVar("_Result")
_Arguments = ParamSpec("_Arguments")


class CancelledJobError(Exception):
    """Cancellation of the job was requested; the stage stops between two batches."""


class TaskContext:
    """What a child process needs, whether it works on a whole job, a shard or a version.

    It is a context manager that closes its `resources` on exit.
    """

    def __init__(self, database: Database, settings: WorkerSettings, claim: HeldRow) -> None:
        self.database = database
        self.settings = settings
        self.job_id = claim.job_id
        self.tenant_id = claim.tenant_id
        self.spec = claim.spec
        self.resources = ExitStack()
        """Resources that stay open as long as the work runs, such as a scorer's connection."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.resources.close()

    @cached_property
    def store(self) -> ArtifactStore:
        """The store of results."""
        return open_artifact_store(self.settings.artifacts)

    def keep(self, data: bytes, write: Callable[[str], None]) -> str:
        """Store `data`, have `write` name its hash in the database, and return the hash.

        Checks at the end that the file exists: garbage collection may have deleted an identical
        file before the database named this one, but cannot do so afterwards.
        """
        sha256 = self.reach(lambda store: store.put_bytes(data))
        write(sha256)
        if not self.reach(lambda store: store.exists(sha256)):
            self.reach(lambda store: store.put_bytes(data))
        return sha256

    def check_cancelled(self) -> None:
        """Raise `CancelledJobError` when the job is to be cancelled."""
        if self.transact(lambda session: is_cancel_requested(session, self.job_id)):
            raise CancelledJobError

    def transact(self, operation: Callable[[Session], _Result]) -> _Result:
        """Return the result of `operation`, run in a transaction of its own.

        If the database is unreachable, retries for as long as the lease lasts, so that a restart of
        the server does not discard hours of work. An outage is logged once, and so is its end.
        """

        def operate() -> _Result:
            with self.database.transaction() as session:
                return operation(session)

        return self._outlast("database", operate, (OperationalError, InterfaceError))

    def reach(self, operation: Callable[[ArtifactStore], _Result]) -> _Result:
        """Return the result of `operation` on the store of results.

        If the store is unavailable, retries as `transact` does.
        """
        return self._outlast("artifact store", lambda: operation(self.store), StoreUnavailableError)

    def _outlast(
        self,
        what: str,
        operate: Callable[[], _Result],
        outages: type[Exception] | tuple[type[Exception], ...],
    ) -> _Result:
        """Return the result of `operate`, which is repeated while `what` is away."""
        started_at, is_away = time.monotonic(), False
        while True:
            try:
                result = operate()
            except outages as error:
                if time.monotonic() > started_at + self.settings.lease_seconds:
                    raise
                if not is_away:
                    logger.warning("%s away, trying again: %s", what, _describe_outage(error))
                is_away = True
                time.sleep(OUTAGE_PAUSE_SECONDS)
            else:
                if is_away:
                    logger.info("%s back after %.1f s", what, time.monotonic() - started_at)
                return result


def _describe_outage(error: Exception) -> str:
    """Return an outage for the log, without a database error's statement and parameters."""
    return type(error.orig).__name__ if isinstance(error, DBAPIError) else str(error)


def poll_cancellation(context: TaskContext) -> Advance:
    """Return a callback for completed units of work that checks for cancellation now and then.

    It raises `CancelledJobError`.
    """
    last = time.monotonic()

    def advance(units: float) -> None:  # noqa: ARG001 - what a shard did is counted when it is filed
        nonlocal last
        if time.monotonic() - last >= PROGRESS_SECONDS:
            last = time.monotonic()
            context.check_cancelled()

    return advance


class JobContext(TaskContext, StageContext):
    """One attempt at one job: all reads and writes go through it, fenced by the claim's token."""

    def __init__(self, database: Database, settings: WorkerSettings, claim: Claim) -> None:
        super().__init__(database, settings, claim)
        self.claim = claim
        self._usual: Mapping[str, float] = self.spec.stages
        """Stage → how long it usually takes, in any unit."""

    def run_stage(
        self, name: str, inputs: Mapping[str, Any], work: Callable[[Progress], bytes]
    ) -> StageOutput:
        """Return the stage's result, or that of an earlier attempt if its inputs are the same.

        `inputs` must hold everything that the result depends on, as JSON values.
        """
        key = compute_key(name, inputs)
        earlier = self._find_earlier(name, key)
        if earlier is not None:
            self._write(finish_stage, name, key, earlier.sha256, True)
            return earlier
        self._write(start_stage, name)
        began = time.monotonic()
        with step(f"stage {name}", job_kind=self.spec.kind):
            data = work(self.progress(name))
        STAGE_SECONDS.labels(self.spec.kind, name).observe(time.monotonic() - began)
        sha256 = self.keep(data, lambda sha256: self._write(finish_stage, name, key, sha256, False))
        return StageOutput(data, sha256)

    def run_shards(self, stage: ShardedStage, work: ShardedWork, counter: Counter) -> list[bytes]:
        """Return the result of every shard, in order, whichever worker computes it."""
        from workers.running.sharding import run_shards  # imports this module in turn

        return run_shards(self, stage, work, counter)

    def load_stage_seconds(self) -> dict[str, float]:
        """Return stage → its duration in seconds, for the finished stages."""
        return self.transact(lambda session: load_stage_seconds(session, self.claim.job_id))

    def remember(self, name: str, key: str, work: Callable[[], bytes]) -> bytes:
        """Return the bytes that an earlier attempt stored under `key`, or the result of `work`."""
        earlier = self._find_earlier(name, key)
        if earlier is not None:
            return earlier.data
        data = work()
        self.keep(data, lambda sha256: self._write(file_finding, name, key, sha256))
        return data

    def recall(self, name: str, key: str) -> bytes | None:
        """Return the bytes that this or an earlier attempt last saved under `key`."""
        earlier = self._find_earlier(name, key)
        return None if earlier is None else earlier.data

    def save(self, name: str, key: str, data: bytes) -> None:
        """Store `data` under `key`, and delete what was stored there before."""
        before = self._find_sha256(name, key)
        sha256 = self.keep(data, lambda sha256: self._write(replace_finding, name, key, sha256))
        if before is not None and before != sha256:
            self._discard(before)

    def forget(self, name: str, key: str) -> None:
        """Delete what is stored under `key`, if anything."""
        before = self._find_sha256(name, key)
        if before is not None:
            self._write(drop_finding, name, key)
            self._discard(before)

    def skip_stage(self, name: str, message: str) -> None:
        """Mark a stage as not needed."""
        self._write(skip_stage, name, message)

    def progress(self, stage: str) -> Progress:
        """Return a callback that checks for cancellation and reports progress now and then.

        The total and the first completed units are always written. The callback raises
        `CancelledJobError` and `LeaseLostError`.
        """
        finished = self.load_stage_seconds()
        started = time.monotonic()
        last, done = 0.0, -1

        def tell(standing: Standing) -> None:
            nonlocal last, done
            now = time.monotonic()
            is_first = done <= 0 < standing.done
            if standing.done < standing.total and now - last < PROGRESS_SECONDS and not is_first:
                return
            last, done = now, standing.done
            self.check_cancelled()
            left = standing.remaining_seconds
            self._write(
                report_progress, stage, standing.done, standing.total, standing.message, left
            )
            if left is not None:
                spent = Spent(finished, stage, now - started, left)
                self.estimate_remaining(estimate_job_seconds(self._usual, spent))

        return tell

    def file_estimate(self, estimate: JobEstimate) -> None:
        """Record what the job needs on this worker, and expect its stages to take as long."""
        self._write(file_estimate, estimate)
        self._usual = estimate.stages

    def estimate_remaining(self, seconds: float) -> None:
        """Record the estimated number of seconds until the job is done."""

        def write(session: Session) -> None:
            at: datetime = fetch_now(session) + timedelta(seconds=seconds)
            set_estimated_finish(session, self.claim.job_id, self.claim.token, at)

        self.transact(write)

    def event(
        self,
        type: str,  # noqa: A002 - the name the API uses
        message: str,
        data: Mapping[str, Any] | None = None,
        *,
        once: bool = False,
    ) -> None:
        """Report an event to the job's owner; with `once`, only if no earlier attempt did."""
        self._write(record_event, type, message, data, once)

    def publish_file(self, name: str, data: bytes, media_type: str) -> None:
        """Store a file and list it among the job's artifacts."""
        self.keep(
            data,
            lambda sha256: self._write(attach_artifact, name, sha256, len(data), media_type),
        )

    def finish(self, status: str, verdict: str, message: str) -> None:
        """End the job with a verdict."""
        self._write(finish_job, status, verdict, None, message)

    def _find_sha256(self, name: str, key: str) -> str | None:
        return self.transact(
            lambda session: find_stage_result(session, self.claim.job_id, name, key)
        )

    def _discard(self, sha256: str) -> None:
        """Delete a file that this job no longer names, unless something else names it."""
        self.reach(
            lambda store: self.transact(lambda session: discard_artifact(session, store, sha256))
        )

    def _find_earlier(self, name: str, key: str) -> StageOutput | None:
        sha256 = self._find_sha256(name, key)
        if sha256 is None:
            return None
        try:
            return StageOutput(self.reach(lambda store: store.get(sha256)), sha256)
        except ArtifactNotFoundError:
            return None

    def _write(
        self,
        operation: Callable[Concatenate[Session, str, int, _Arguments], object],
        *arguments: _Arguments.args,
        **named: _Arguments.kwargs,
    ) -> None:
        """Run `operation` with the job's id and the claim's token, in its own transaction."""

        def write(session: Session) -> None:
            operation(session, self.claim.job_id, self.claim.token, *arguments, **named)

        self.transact(write)
