"""The supervisor over a real database: every ending of a child becomes the job's, once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from service.database import Database
from service.jobs.execution import Claim
from service.jobs.operations import cancel_job
from service.models import Event, Job
from tests.integration.workers import children
from tests.integration.workers.conftest import claim
from workers.kinds.leased import LeasedJob
from workers.running import supervision
from workers.running.life_signs import LifeSigns
from workers.running.supervision import Supervisor
from workers.settings import WorkerSettings

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def supervisor(database: Database, settings: WorkerSettings) -> Supervisor:
    return Supervisor(database, settings, "worker")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


def read(database: Database, job_id: str) -> Job:
    with database.transaction() as session:
        return session.scalars(select(Job).where(Job.id == job_id)).one()


def list_types(database: Database, job_id: str) -> list[str]:
    with database.transaction() as session:
        query = select(Event.type).where(Event.job_id == job_id).order_by(Event.id)
        return list(session.scalars(query))


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_child(settings: WorkerSettings, job_id: str) -> psutil.Process:
    path = children.find_announcement(settings, job_id)
    wait_until(path.exists)
    return psutil.Process(int(path.read_text()))


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def run(
    supervisor: Supervisor,
    pool: ThreadPoolExecutor,
    job_id: str,
    act: children.Act,
) -> Future[None]:
    return pool.submit(supervisor.run, children.ActingJob(act), job_id)


def test_a_finished_job_stays_as_the_child_ended_it(
    database: Database, supervisor: Supervisor, job_id: str
) -> None:
    job = children.ActingJob(children.finish)
    supervisor.run(job, job_id)
    supervisor.run(job, job_id)  # the message is delivered a second time
    row = read(database, job_id)
    assert (row.status, row.verdict, row.attempts) == ("succeeded", "passed", 1)
    assert list_types(database, job_id).count("job.succeeded") == 1
    assert supervisor.job_id is None


def test_a_child_that_dies_after_finishing_changes_nothing(
    database: Database, supervisor: Supervisor, job_id: str
) -> None:
    supervisor.run(children.ActingJob(children.finish_and_die), job_id)
    assert read(database, job_id).status == "succeeded"
    assert list_types(database, job_id)[-1] == "job.succeeded"


def fail_three_times(
    database: Database, supervisor: Supervisor, work: LeasedJob, job_id: str
) -> str:
    """Return the error of a job whose children all die, retried until it counts as poison."""
    for attempt in (1, 2, 3):
        assert read(database, job_id).status == "queued"
        supervisor.run(work, job_id)
        assert read(database, job_id).attempts == attempt
    job = read(database, job_id)
    assert (job.status, job.error_code) == ("failed", "poison_job")
    return job.error_message or ""


def test_three_dead_children_make_a_poison_job(
    database: Database, supervisor: Supervisor, job_id: str
) -> None:
    deadly = children.ActingJob(children.die)
    assert "SIGKILL" in fail_three_times(database, supervisor, deadly, job_id)
    supervisor.run(deadly, job_id)
    assert read(database, job_id).attempts == 3


def test_a_lack_of_memory_is_retried_and_then_reported(
    database: Database, supervisor: Supervisor, job_id: str
) -> None:
    message = fail_three_times(database, supervisor, children.OversizedJob(), job_id)
    assert "ran out of memory. Use a larger device" in message


def test_a_claim_waits_for_the_database_and_says_so_once(
    database: Database,
    supervisor: Supervisor,
    job_id: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[LeasedJob] = []
    claim_job = LeasedJob.claim

    def claim_late(work: LeasedJob, *arguments: Any) -> Claim | None:
        calls.append(work)
        if len(calls) < 4:
            raise OperationalError("SELECT 1", {}, ConnectionError("gone"))
        return claim_job(work, *arguments)

    monkeypatch.setattr(supervision, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(LeasedJob, "claim", claim_late)
    supervisor.run(children.ActingJob(children.finish), job_id)
    assert read(database, job_id).status == "succeeded"
    assert len(calls) == 4
    assert caplog.messages.count(f"{job_id} not claimed yet: OperationalError") == 1


def test_a_child_that_lost_the_database_costs_no_attempt(
    database: Database, supervisor: Supervisor, job_id: str
) -> None:
    for _ in range(4):
        supervisor.run(children.ActingJob(children.lose_database), job_id)
        job = read(database, job_id)
        assert (job.status, job.attempts) == ("queued", 0)


def test_work_that_the_database_refuses_is_given_up_in_the_end(
    database: Database, supervisor: Supervisor, job_id: str
) -> None:
    refused = children.ActingJob(children.be_refused)
    assert "exited with status 1" in fail_three_times(database, supervisor, refused, job_id)


@pytest.mark.parametrize("reaches_child", [False, True])
def test_a_shutdown_gives_the_job_back_without_counting(
    database: Database,
    settings: WorkerSettings,
    job_id: str,
    pool: ThreadPoolExecutor,
    reaches_child: bool,
) -> None:
    for _ in range(settings.max_attempts + 1):
        children.find_announcement(settings, job_id).unlink(missing_ok=True)
        stopped = Supervisor(database, settings, "worker")
        ending = run(stopped, pool, job_id, children.hang)
        child = wait_for_child(settings, job_id)
        assert stopped.job_id == job_id
        stopped.stop()
        if reaches_child:  # a group, a container or a systemd unit signals all processes
            child.terminate()
        ending.result(60)
        assert is_gone(child)
        job = read(database, job_id)
        assert (job.status, job.attempts) == ("queued", 0)
    types = list_types(database, job_id)
    assert types.count("job.started") == 1
    assert types.count("job.requeued") == settings.max_attempts + 1
    assert claim(database, job_id).attempt == 1


def test_a_cancelled_child_that_does_not_stop_is_killed(
    database: Database,
    settings: WorkerSettings,
    supervisor: Supervisor,
    job_id: str,
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervision, "_JOIN_SECONDS", 0.5)
    ending = run(supervisor, pool, job_id, children.ignore_everything)
    child = wait_for_child(settings, job_id)
    with database.transaction() as session:
        cancel_job(session, read(database, job_id).tenant_id, job_id)
    ending.result(60)
    assert is_gone(child)
    assert read(database, job_id).status == "cancelled"


def test_a_lost_lease_ends_the_child_and_leaves_the_job_to_its_new_owner(
    database: Database,
    settings: WorkerSettings,
    supervisor: Supervisor,
    job_id: str,
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervision, "_JOIN_SECONDS", 0.5)
    ending = run(supervisor, pool, job_id, children.hang)
    child = wait_for_child(settings, job_id)
    newer = claim(database, job_id, "another")
    ending.result(60)
    assert is_gone(child)
    job = read(database, job_id)
    assert (job.status, job.lease_worker, job.lease_token) == ("running", "another", newer.token)


def test_an_orphaned_child_ends_itself(
    database_url: str, settings: WorkerSettings, job_id: str
) -> None:
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("EXCISE_")},
        "PYTHONPATH": str(ROOT),
        "EXCISE_DATABASE_URL": database_url,
        "EXCISE_ARTIFACTS": settings.artifacts,
    }
    command = [sys.executable, "-m", "tests.integration.workers.orphan", job_id]
    with subprocess.Popen(command, env=environment, cwd=ROOT) as parent:
        child = wait_for_child(settings, job_id)
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: is_gone(child))


def test_an_idle_worker_that_gets_no_jobs_exits(
    database: Database,
    settings: WorkerSettings,
    supervisor: Supervisor,
    make_job: Callable[[], str],
) -> None:
    signs = LifeSigns(database, settings, supervisor)
    wait = threading.Event().wait
    wait(2 * settings.silence_seconds)
    assert signs.beat()  # nothing is waiting
    make_job()
    assert signs.beat()  # not for long yet
    wait(2 * settings.silence_seconds)
    supervisor.is_warming_up = True
    assert signs.beat()  # it has a message, and loads what a job needs
    supervisor.is_warming_up = False
    wait(2 * settings.silence_seconds)
    supervisor.job_id = "job_other"
    assert signs.beat()  # busy
    supervisor.job_id = None
    assert signs.beat()  # idle, but not for long
    wait(2 * settings.silence_seconds)
    assert not signs.beat()
