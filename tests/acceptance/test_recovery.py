"""Whichever part dies while a job runs, the job ends once, with the same files and a reason."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import text

from excise.resources.jobs import JobView
from tests.acceptance.harness import (
    SHORT,
    STAGES,
    Harness,
    check_equal_files,
    find_stage_events,
    is_gone,
    list_types,
    wait_for,
)


def check_finished(
    stack: Harness, job: JobView, folder: Path, first_files: dict[str, bytes]
) -> None:
    """Check that the job passed, each stage has one result, and its files equal any other run's."""
    assert (job.status, job.verdict, job.error) == ("succeeded", "passed", None), stack.describe()
    patches = [artifact for artifact in job.artifacts if artifact.name == "patch.safetensors"]
    assert len(patches) == 1
    with stack.database.transaction() as session:
        query = text("SELECT name FROM stage_results WHERE job_id = :id AND name = ANY(:stages)")
        results = session.scalars(query, {"id": job.id, "stages": list(STAGES)}).all()
    assert sorted(results) == sorted(STAGES)
    endings = [kind for kind in list_types(stack.events(job.id)) if kind == "job.succeeded"]
    assert len(endings) == 1
    files = stack.download(job, folder)
    check_equal_files(files, first_files or files)
    first_files.update(first_files or files)


def check_quick(job: JobView) -> None:
    """Check that a job of `submit_quick` ended as it should, at its first attempt."""
    assert (job.status, job.verdict, job.attempts) == ("rejected", "no_effect", 1)


def check_resumed(stack: Harness, job: JobView, reason: str) -> None:
    """Check that the second attempt continued where the first was interrupted."""
    assert job.attempts == 2
    events = stack.events(job.id)
    types = [kind for kind in list_types(events) if kind.startswith("job.")]
    assert types == ["job.queued", "job.started", "job.requeued", "job.resumed", "job.succeeded"]
    (requeued,) = [event for event in events if event["type"] == "job.requeued"]
    assert reason in requeued["message"]
    check_prepared_once(stack, job.id)
    assert len(find_stage_events(events, "stage.started", "attribute")) == 2
    assert len(find_stage_events(events, "stage.succeeded", "attribute")) == 1


def check_prepared_once(stack: Harness, job_id: str) -> None:
    """Check that the first stage ran once and a later attempt found its result."""
    events = stack.events(job_id)
    assert len(find_stage_events(events, "stage.started", "prepare")) == 1
    prepared = find_stage_events(events, "stage.succeeded", "prepare")
    assert [event["data"]["reused"] for event in prepared] == [False, True]
    assert prepared[0]["data"]["sha256"] == prepared[1]["data"]["sha256"]


def test_a_killed_worker_is_replaced_and_its_job_continues(stack: Harness, folder: Path) -> None:
    before = stack.restarts("worker")
    job_id = stack.submit()
    stack.wait_for_attribution(job_id)
    orphan = stack.job_process()
    stack.kill_part("worker")
    wait_for(lambda: is_gone(orphan), "the end of the killed worker's job process")
    job = stack.wait(job_id)
    assert stack.restarts("worker") == before + 1
    check_resumed(stack, job, "not heard of")
    check_finished(stack, job, folder, {})


def test_a_killed_job_process_is_replaced_by_the_same_worker(
    stack: Harness, folder: Path, first_files: dict[str, bytes]
) -> None:
    worker = stack.worker_pid()
    job_id = stack.submit(**SHORT)
    stack.wait_for_attribution(job_id)
    stack.job_process().kill()
    job = stack.wait(job_id)
    assert stack.worker_pid() == worker
    check_resumed(stack, job, "SIGKILL")
    check_finished(stack, job, folder, first_files)


def test_a_worker_told_to_stop_gives_its_job_back(
    stack: Harness, folder: Path, first_files: dict[str, bytes]
) -> None:
    before = stack.restarts("worker")
    job_id = stack.submit(**SHORT)
    stack.wait_for_attribution(job_id)
    child = stack.job_process()
    worker = psutil.Process(stack.worker_pid())
    worker.send_signal(signal.SIGTERM)
    requeued = stack.wait_for_event(job_id, "job.requeued")
    assert "shutting down" in requeued["message"]  # the worker said so itself; no lease expired
    wait_for(lambda: is_gone(worker) and is_gone(child), "the worker's end", stack.describe)
    stack.wait_for_restart("worker", before)
    job = stack.wait(job_id)
    assert job.attempts == 1  # a shutdown does not count as a failure
    assert "job.resumed" in list_types(stack.events(job_id))
    check_prepared_once(stack, job_id)
    check_finished(stack, job, folder, first_files)


@contextmanager
def killing_job_processes(stack: Harness) -> Iterator[None]:
    """Kill every process that a job gets within the context."""
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.05):
            for process in stack.job_processes():
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    with ThreadPoolExecutor(1) as pool:
        killer = pool.submit(kill)
        try:
            yield
        finally:
            stop.set()
            killer.result()


def test_a_job_that_always_dies_is_given_up(stack: Harness) -> None:
    worker = stack.worker_pid()
    poisonous = stack.submit(**SHORT)
    with killing_job_processes(stack):
        job = stack.wait(poisonous)
    assert (job.status, job.attempts) == ("failed", 3)
    assert job.error is not None
    assert job.error.code == "poison_job"
    assert "after 3 attempts" in job.error.message
    assert "SIGKILL" in job.error.message
    assert list_types(stack.events(poisonous)).count("job.resumed") == 2
    assert [stage.status for stage in job.stages] == ["skipped"] * 5
    check_quick(stack.wait(stack.submit_quick()))
    assert stack.worker_pid() == worker


@contextmanager
def stuck_submissions(stack: Harness) -> Iterator[Callable[[], bool]]:
    """Within the context, block submissions before their last row; yield whether one is blocked."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ :it"

    def has_one() -> bool:
        with stack.database.transaction() as session:
            return bool(session.scalar(text(query), {"it": "INSERT INTO outbox"}))

    with stack.database.transaction() as session:
        session.execute(text("LOCK TABLE outbox IN SHARE MODE"))
        yield has_one


def list_job_ids(stack: Harness) -> set[str]:
    return {job.id for job in stack.client.list_jobs(limit=100).data}


def test_a_submission_interrupted_by_the_apis_death_is_repeated_by_the_client(
    stack: Harness,
) -> None:
    earlier, restarts = list_job_ids(stack), stack.restarts("api")
    spec = stack.build_spec()
    with ThreadPoolExecutor(1) as pool:
        with stuck_submissions(stack) as has_one:
            submission = pool.submit(stack.client.create_job, spec, idempotency_key="died-in")
            wait_for(has_one, "a submission in the middle of its transaction", stack.describe)
            stack.kill_part("api")
        stack.wait_for_restart("api", restarts)
        job = submission.result()  # still the same call: the client has sent it again
    assert list_job_ids(stack) - earlier == {job.id}
    assert stack.client.create_job(spec, idempotency_key="died-in").id == job.id
    assert list_job_ids(stack) - earlier == {job.id}


def test_a_submission_whose_answer_was_lost_is_not_repeated(stack: Harness) -> None:
    earlier, restarts = list_job_ids(stack), stack.restarts("api")
    spec = stack.build_spec()
    headers = {"Idempotency-Key": "lost-answer", "Authorization": f"Bearer {stack.key}"}
    with stuck_submissions(stack) as has_one, ThreadPoolExecutor(1) as pool:
        url, timeout = f"{stack.stack.url}/v1/jobs", httpx.Timeout(60, read=3)
        lost = pool.submit(httpx.post, url, json=spec, headers=headers, timeout=timeout)
        wait_for(has_one, "a submission in the middle of its transaction", stack.describe)
        with pytest.raises(httpx.ReadTimeout):
            lost.result()
    (job_id,) = wait_for(lambda: list_job_ids(stack) - earlier, "the job", stack.describe)
    stack.kill_part("api")
    assert stack.client.create_job(spec, idempotency_key="lost-answer").id == job_id
    assert list_job_ids(stack) - earlier == {job_id}
    assert stack.restarts("api") == restarts + 1


def test_an_emptied_broker_loses_no_job(
    stack: Harness, folder: Path, first_files: dict[str, bytes]
) -> None:
    running, queued = stack.submit(**SHORT), stack.submit_quick()
    stack.wait_for_attribution(running)
    assert stack.job(queued).status == "queued"
    with stack.broker() as broker:
        broker.flushall()
    job = stack.wait(running)
    assert job.attempts == 1
    check_finished(stack, job, folder, first_files)
    check_quick(stack.wait(queued))


def test_workers_hear_of_jobs_after_the_broker_was_killed(
    stack: Harness, folder: Path, first_files: dict[str, bytes]
) -> None:
    before = stack.restarts("valkey")
    running = stack.submit(**SHORT)
    stack.wait_for_attribution(running)
    stack.kill_part("valkey")
    stack.wait_for_restart("valkey", before)
    later = stack.submit_quick()
    check_finished(stack, stack.wait(running), folder, first_files)
    check_quick(stack.wait(later))


def crash_postgres(stack: Harness) -> None:
    """Kill the server with SIGKILL: every connection breaks, and it recovers from its log."""
    stack.kill_part("postgres")


def shut_down_postgres(stack: Harness) -> None:
    """Shut the server down fast, as a package upgrade does."""
    os.kill(stack.stack.pids["postgres"], signal.SIGINT)


@pytest.mark.parametrize("end_postgres", [crash_postgres, shut_down_postgres])
def test_a_restarted_database_loses_no_job(
    stack: Harness,
    folder: Path,
    first_files: dict[str, bytes],
    end_postgres: Callable[[Harness], None],
) -> None:
    before = stack.restarts("postgres")
    job_id = stack.submit(**SHORT)
    stack.wait_for_attribution(job_id)
    end_postgres(stack)
    stack.wait_for_restart("postgres", before)
    job = stack.wait(job_id)
    assert job.attempts <= 2
    check_finished(stack, job, folder, first_files)


def test_cancellation_ends_queued_and_running_jobs(stack: Harness) -> None:
    running, queued = stack.submit(**SHORT), stack.submit(**SHORT)
    stack.wait_for_attribution(running)
    worker, child = stack.worker_pid(), stack.job_process()
    job = stack.client.cancel_job(queued)
    assert (job.status, job.attempts, job.started_at) == ("cancelled", 0, None)
    assert stack.client.cancel_job(running).cancel_requested
    job = stack.wait(running)
    assert (job.status, job.verdict, job.error) == ("cancelled", None, None)
    statuses = ["succeeded", "failed", "skipped", "skipped", "skipped"]
    assert [stage.status for stage in job.stages] == statuses
    assert job.artifacts == []
    assert list_types(stack.events(running))[-2:] == ["job.cancel_requested", "job.cancelled"]
    wait_for(lambda: is_gone(child), "the end of the cancelled job's process", stack.describe)

    following = stack.submit(**SHORT)
    stack.wait_for_event(following, "stage.started")
    assert stack.worker_pid() == worker
    assert stack.job(queued).status == "cancelled"
    assert list_types(stack.events(queued)) == ["job.queued", "job.cancelled"]
    stack.client.cancel_job(following)
    assert stack.wait(following).status == "cancelled"
