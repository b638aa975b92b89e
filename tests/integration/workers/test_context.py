"""A job's context over a real database: stages run once, writes are fenced, cancelling works."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from service.artifacts import ArtifactStore
from service.database import Database
from service.errors import LeaseLostError, StoreUnavailableError
from service.jobs.execution import is_job_waiting, load_stage_seconds
from service.jobs.leases import JOBS
from service.jobs.operations import cancel_job
from service.leases.operations import release
from service.models import Event, Job, JobArtifact, Stage
from tests.integration.workers.children import ActingJob
from tests.integration.workers.conftest import claim
from workers.progress import Progress, Standing
from workers.running import context as context_module
from workers.running.child import EXIT_GAVE_BACK, run_claimed
from workers.running.context import CancelledJobError, JobContext
from workers.running.leased import HeldRow
from workers.settings import WorkerSettings


@pytest.fixture
def context(database: Database, settings: WorkerSettings, job_id: str) -> JobContext:
    return JobContext(database, settings, claim(database, job_id))


def read(database: Database, job_id: str) -> Job:
    with database.transaction() as session:
        return session.scalars(select(Job).where(Job.id == job_id)).one()


def count_runs(context: JobContext, inputs: dict[str, object], result: bytes = b"result") -> int:
    """Return how often the stage's work ran for one call."""
    runs = 0

    def work(progress: Progress) -> bytes:
        nonlocal runs
        runs += 1
        progress(Standing(1, 1))
        return result

    assert context.run_stage("prepare", inputs, work).data == result
    return runs


def test_a_result_is_reused_for_equal_inputs_only(
    database: Database, settings: WorkerSettings, context: JobContext
) -> None:
    assert count_runs(context, {"model": "a", "seed": 0}) == 1
    with database.transaction() as session:
        release(session, JOBS, context.claim.job_id, context.claim.token, "crash")
    second = JobContext(database, settings, claim(database, context.claim.job_id))
    assert count_runs(second, {"seed": 0, "model": "a"}) == 0
    assert count_runs(second, {"model": "a", "seed": 1}, b"other") == 1
    assert count_runs(second, {"model": "a", "seed": 0}) == 0


def test_a_result_whose_file_is_missing_is_computed_again(
    context: JobContext, settings: WorkerSettings
) -> None:
    inputs: dict[str, object] = {"model": "a"}
    assert count_runs(context, inputs) == 1
    (stored,) = Path(settings.artifacts).glob("*/*")
    stored.unlink()
    assert count_runs(context, inputs) == 1
    assert count_runs(context, inputs) == 0


def test_another_jobs_result_is_not_reused(
    database: Database, settings: WorkerSettings, make_job: Callable[[], str]
) -> None:
    first, second = (JobContext(database, settings, claim(database, make_job())) for _ in "ab")
    assert count_runs(first, {"model": "a"}) == count_runs(second, {"model": "a"}) == 1


def remember(context: JobContext, key: str, result: bytes = b"found") -> int:
    """Return how often a finding was computed for one call."""
    runs = 0

    def work() -> bytes:
        nonlocal runs
        runs += 1
        return result

    assert context.remember("search.measured", key, work) == result
    return runs


def test_findings_survive_an_attempt(
    database: Database, settings: WorkerSettings, context: JobContext
) -> None:
    assert remember(context, "one") == 1
    assert remember(context, "one") == 0
    with database.transaction() as session:
        release(session, JOBS, context.claim.job_id, context.claim.token, "crash")
    second = JobContext(database, settings, claim(database, context.claim.job_id))
    assert remember(second, "one") == 0
    assert remember(second, "another", b"other") == 1
    (stored,) = [
        path for path in Path(settings.artifacts).glob("*/*") if path.read_bytes() == b"found"
    ]
    stored.unlink()
    assert remember(second, "one") == 1


def test_an_earlier_attempts_events_are_not_repeated(
    database: Database, settings: WorkerSettings, context: JobContext
) -> None:
    context.event("search.trial", "round 1\0", {"kl": 0.1}, once=True)
    context.event("search.trial", "round 2")
    with database.transaction() as session:
        release(session, JOBS, context.claim.job_id, context.claim.token, "crash")
    second = JobContext(database, settings, claim(database, context.claim.job_id))
    for message in ("round 1\0", "round 2", "round 3"):
        second.event("search.trial", message, once=True)
    second.event("note", "round 1", once=True)
    with database.transaction() as session:
        own = select(Event.message).where(Event.job_id == context.job_id).order_by(Event.id)
        trials = session.scalars(own.where(Event.type == "search.trial")).all()
        notes = session.scalars(own.where(Event.type == "note")).all()
    assert trials == ["round 1", "round 2", "round 3"]
    assert notes == ["round 1"]


def test_another_jobs_findings_are_not_reused(
    database: Database, settings: WorkerSettings, make_job: Callable[[], str]
) -> None:
    first, second = (JobContext(database, settings, claim(database, make_job())) for _ in "ab")
    assert remember(first, "one") == remember(second, "one") == 1


def test_progress_notices_a_cancellation(
    database: Database, context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context_module, "PROGRESS_SECONDS", 0.0)
    reached = []

    def work(progress: Progress) -> bytes:
        for done in range(1, 10):
            if done == 4:
                with database.transaction() as session:
                    cancel_job(session, context.claim.tenant_id, context.claim.job_id)
            progress(Standing(done, 10))
            reached.append(done)
        return b""

    with pytest.raises(CancelledJobError):
        context.run_stage("prepare", {}, work)
    assert reached == [1, 2, 3]


def test_an_old_token_stops_every_write(
    database: Database, settings: WorkerSettings, context: JobContext
) -> None:
    job_id = context.claim.job_id

    def lose(progress: Progress) -> bytes:
        newer = claim(database, job_id, "another")
        JobContext(database, settings, newer).run_stage("prepare", {}, lambda _: b"theirs")
        with pytest.raises(LeaseLostError):
            progress(Standing(10, 10))
        return b"ours"

    for write in (
        lambda: context.run_stage("prepare", {}, lose),
        lambda: context.event("note", "hello"),
        lambda: context.publish_file("report.json", b"{}", "application/json"),
        lambda: context.skip_stage("validate", "why"),
        lambda: context.estimate_remaining(10),
        lambda: context.remember("search.measured", "key", lambda: b"found"),
        lambda: context.finish("succeeded", "passed", "done"),
    ):
        with pytest.raises(LeaseLostError):
            write()
    with database.transaction() as session:
        assert (
            session.scalar(select(Event.id).where(Event.job_id == job_id, Event.type == "note"))
            is None
        )
        assert session.scalar(select(JobArtifact.name).where(JobArtifact.job_id == job_id)) is None
    assert read(database, job_id).status == "running"
    current = claim(database, job_id, "third")
    found = JobContext(database, settings, current).run_stage("prepare", {}, lambda _: b"again")
    assert found.data == b"theirs"


def test_a_job_is_finished_only_once(database: Database, context: JobContext) -> None:
    context.finish("rejected", "no_effect", "nothing to correct")
    with pytest.raises(LeaseLostError):
        context.finish("succeeded", "passed", "done")
    job = read(database, context.claim.job_id)
    assert (job.status, job.verdict) == ("rejected", "no_effect")


def test_stage_seconds_are_those_of_finished_stages(
    database: Database, context: JobContext
) -> None:
    job_id = context.claim.job_id
    count_runs(context, {})
    context.skip_stage("attribute", "no need")
    with database.transaction() as session:
        session.execute(
            text(
                "UPDATE stages SET started_at = finished_at - interval '90 seconds' "
                "WHERE job_id = :id AND name = 'prepare'"
            ),
            {"id": job_id},
        )
        assert load_stage_seconds(session, job_id) == {"prepare": 90.0}
    assert count_runs(context, {}) == 0
    with database.transaction() as session:
        assert load_stage_seconds(session, job_id) == {"prepare": 90.0}  # as when it was recorded
        assert session.get_one(Stage, (job_id, "attribute")).status == "skipped"


def test_only_an_unclaimed_job_waits(database: Database, job_id: str) -> None:
    with database.transaction() as session:
        assert not is_job_waiting(session, 3600)
        assert is_job_waiting(session, 0)
    claim(database, job_id)
    with database.transaction() as session:
        assert not is_job_waiting(session, 0)


def break_connection(session: Session) -> None:
    session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


def test_an_outage_of_the_database_is_waited_out(
    context: JobContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has its beginning and its end."""
    caplog.set_level("INFO", context_module.logger.name)
    monkeypatch.setattr(context_module, "OUTAGE_PAUSE_SECONDS", 0.01)
    calls = []

    def operate(session: Session) -> str:
        calls.append(session)
        if len(calls) < 3:
            break_connection(session)
        return "done"

    assert context.transact(operate) == "done"
    assert len(calls) == 3
    own = [entry for entry in caplog.records if entry.name == context_module.logger.name]
    assert [entry.getMessage().partition(" after ")[0] for entry in own] == [
        "database away, trying again: AdminShutdown",
        "database back",
    ]


def test_an_outage_longer_than_the_lease_ends_the_attempt_not_the_job(
    database: Database,
    settings: WorkerSettings,
    context: JobContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(context_module, "OUTAGE_PAUSE_SECONDS", 0.01)

    def lose_database(_: HeldRow, __: WorkerSettings) -> None:
        hasty = settings.model_copy(update={"lease_seconds": 0})
        lost = JobContext(database, hasty, context.claim)
        time.sleep(0.01)
        lost.transact(break_connection)

    with pytest.raises(SystemExit) as ending:
        run_claimed(ActingJob(lose_database), context.claim, settings)
    assert ending.value.code not in {0, None}
    assert read(database, context.claim.job_id).status == "running"


class FlakyStore:
    """A store that is away, or full, for its first calls."""

    def __init__(self, store: ArtifactStore, failures: int) -> None:
        self._store, self.failures = store, failures

    def __getattr__(self, name: str) -> Any:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailableError("The artifact store cannot be used (No space left).")
        return getattr(self._store, name)


def test_an_outage_of_the_artifact_store_is_waited_out(
    context: JobContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The stage's work is not done again."""
    caplog.set_level("INFO", context_module.logger.name)
    monkeypatch.setattr(context_module, "OUTAGE_PAUSE_SECONDS", 0.01)
    context.store = FlakyStore(context.store, 3)  # type: ignore[assignment]
    assert count_runs(context, {"a": 1}) == 1
    own = [entry.getMessage() for entry in caplog.records if "artifact store" in entry.getMessage()]
    assert ["trying again" in text for text in own] == [True, False]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            StoreUnavailableError("The artifact store cannot be used (Gone)."),
            "store cannot be used",
        ),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
    ],
)
def test_a_full_disk_or_lost_store_ends_the_attempt_then_the_job_with_its_reason(
    database: Database,
    settings: WorkerSettings,
    context: JobContext,
    error: Exception,
    reason: str,
) -> None:
    def fail(_: HeldRow, __: WorkerSettings) -> None:
        raise error

    job_id, held = context.claim.job_id, context.claim
    for attempt in range(1, settings.max_attempts + 1):
        with pytest.raises(SystemExit) as ending:
            run_claimed(ActingJob(fail), held, settings)
        assert ending.value.code == EXIT_GAVE_BACK
        if attempt < settings.max_attempts:
            assert read(database, job_id).status == "queued"
            held = claim(database, job_id)
    job = read(database, job_id)
    assert (job.status, job.error_code) == ("failed", "poison_job")
    assert job.error_message is not None
    assert reason in job.error_message
