"""The functions that workers call: fencing by leases, attempts, stages and results."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.orm import Session

from excise.estimates.estimate import JobEstimate
from service.database import Database, fetch_now, fetch_server_start
from service.errors import LeaseLostError, NotFoundError
from service.jobs import execution, inputs
from service.jobs.leases import JOBS
from service.leases import operations as leases
from tests.integration.service.conftest import clear_jobs, submit

SHA256 = "0" * 64


@pytest.fixture
def job_id(client: TestClient, database: Database) -> str:
    clear_jobs(database)
    return str(submit(client)["id"])


def claim(database: Database, job_id: str, worker: str = "w") -> execution.Claim:
    with database.transaction() as session:
        found = execution.claim_job(session, job_id, worker, 30)
    assert found
    return found


def expire(database: Database, job_id: str) -> None:
    with database.transaction() as session:
        session.execute(
            text("UPDATE jobs SET lease_expires_at = now() - interval '1 second' WHERE id = :id"),
            {"id": job_id},
        )


def sweep(database: Database) -> list[str]:
    with database.transaction() as session:
        return leases.sweep(session, JOBS, 30, 3)


def read(client: TestClient, job_id: str) -> dict[str, Any]:
    body: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
    return body


def test_only_one_worker_gets_a_job(database: Database, job_id: str) -> None:
    def try_claim(worker: int) -> execution.Claim | None:
        with database.transaction() as session:
            return execution.claim_job(session, job_id, f"w{worker}", 30)

    with ThreadPoolExecutor(8) as pool:
        claims = [found for found in pool.map(try_claim, range(16)) if found]
    assert len(claims) == 1
    assert (claims[0].attempt, claims[0].token) == (1, 1)
    assert claims[0].spec.model == "tiny"


ESTIMATE = JobEstimate.model_validate(JobEstimate.model_json_schema()["examples"][0])
WRITES: list[Callable[[Any, str, int], object]] = [
    lambda s, j, t: leases.renew(s, JOBS, j, t, 30),
    lambda s, j, t: leases.release(s, JOBS, j, t, "crash"),
    lambda s, j, t: execution.start_stage(s, j, t, "prepare"),
    lambda s, j, t: execution.report_progress(s, j, t, "prepare", 1, 2),
    lambda s, j, t: execution.finish_stage(s, j, t, "prepare", "key", SHA256, False),
    lambda s, j, t: execution.skip_stage(s, j, t, "prepare", "why"),
    lambda s, j, t: execution.record_event(s, j, t, "note", "text"),
    lambda s, j, t: execution.record_event(s, j, t, "note", "text", once=True),
    lambda s, j, t: execution.set_estimated_finish(s, j, t, datetime.now(UTC)),
    lambda s, j, t: execution.file_estimate(s, j, t, ESTIMATE),
    lambda s, j, t: execution.attach_artifact(s, j, t, "a", SHA256, 1, "x/y"),
    lambda s, j, t: execution.finish_job(s, j, t, "succeeded", "passed"),
]


@pytest.mark.parametrize("write", WRITES)
def test_a_stale_token_writes_nothing(
    client: TestClient, database: Database, job_id: str, write: Callable[[Any, str, int], object]
) -> None:
    stale = claim(database, job_id, "old")
    expire(database, job_id)
    fresh = claim(database, job_id, "new")
    assert fresh.token > stale.token
    before = client.get(f"/v1/jobs/{job_id}/events").json(), read(client, job_id)
    with pytest.raises(LeaseLostError), database.transaction() as session:
        write(session, job_id, stale.token)
    assert (client.get(f"/v1/jobs/{job_id}/events").json(), read(client, job_id)) == before
    with database.transaction() as session:
        write(session, job_id, fresh.token)


def test_a_requeued_job_no_longer_accepts_writes(database: Database, job_id: str) -> None:
    old = claim(database, job_id)
    expire(database, job_id)
    assert sweep(database) == [job_id]
    with pytest.raises(LeaseLostError), database.transaction() as session:
        leases.renew(session, JOBS, job_id, old.token, 30)


def test_a_takeover_is_reported(client: TestClient, database: Database, job_id: str) -> None:
    claim(database, job_id, "first")
    with database.transaction() as session:
        assert execution.claim_job(session, job_id, "second", 30) is None
    expire(database, job_id)
    assert claim(database, job_id, "second").attempt == 2
    last = client.get(f"/v1/jobs/{job_id}/events").json()["data"][-1]
    assert last["type"] == "job.resumed"
    assert "not heard of" in last["message"]


def test_three_dead_workers_make_a_poison_job(
    client: TestClient, database: Database, job_id: str
) -> None:
    for attempt in (1, 2, 3):
        assert read(client, job_id)["status"] == "queued"
        assert claim(database, job_id).attempt == attempt
        expire(database, job_id)
        assert sweep(database) == [job_id]
    job = read(client, job_id)
    assert (job["status"], job["error"]["code"], job["attempts"]) == ("failed", "poison_job", 3)
    assert "after 3 attempts" in job["error"]["message"]
    assert job["finished_at"]
    assert sweep(database) == []


@pytest.fixture
def restarted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Database, str, float], None]:
    """Make a job's lease of 30 seconds run out, renewed so many seconds after the server's start.

    The start is the server's own, moved back by a minute, so that a lease can have run out since.
    """

    def expire_around(database: Database, job_id: str, seconds: float) -> None:
        def fetch_start(session: Session) -> datetime:
            start = fetch_server_start(session)
            assert start < fetch_now(session)
            return start - timedelta(seconds=60)

        monkeypatch.setattr(leases, "fetch_server_start", fetch_start)
        with database.transaction() as session:
            renewed_at = fetch_start(session) + timedelta(seconds=seconds)
            session.execute(
                text("UPDATE jobs SET lease_expires_at = :end WHERE id = :id"),
                {"end": renewed_at + timedelta(seconds=30), "id": job_id},
            )

    return expire_around


def test_an_outage_of_the_database_costs_no_attempt(
    client: TestClient,
    database: Database,
    job_id: str,
    restarted: Callable[[Database, str, float], None],
) -> None:
    for _ in range(4):
        assert claim(database, job_id).attempt == 1
        restarted(database, job_id, -1)
        assert sweep(database) == [job_id]
    event = client.get(f"/v1/jobs/{job_id}/events").json()["data"][-1]
    assert (event["type"], event["data"]["counts"]) == ("job.requeued", False)
    assert "database was started anew" in event["message"]
    for _ in range(4):  # whoever claims the job before the sweeper has looked
        assert claim(database, job_id).attempt == 1
        restarted(database, job_id, -1)
    assert claim(database, job_id).attempt == 1
    restarted(database, job_id, 1)
    assert claim(database, job_id).attempt == 2


def test_a_lease_renewed_since_the_database_started_costs_an_attempt(
    database: Database, job_id: str, restarted: Callable[[Database, str, float], None]
) -> None:
    for attempt in (1, 2):
        assert claim(database, job_id).attempt == attempt
        restarted(database, job_id, 1)
        assert sweep(database) == [job_id]


def test_a_crashed_child_is_released_with_its_reason(
    client: TestClient, database: Database, job_id: str
) -> None:
    for _ in range(3):
        token = claim(database, job_id).token
        with database.transaction() as session:
            execution.start_stage(session, job_id, token, "prepare")
            leases.release(session, JOBS, job_id, token, "killed by signal 9\0")
    job = read(client, job_id)
    assert job["error"]["code"] == "poison_job"
    assert "killed by signal 9" in job["error"]["message"]
    assert [stage["status"] for stage in job["stages"][:2]] == ["failed", "skipped"]


def test_claiming_without_attempts_left_gives_up(
    client: TestClient, database: Database, job_id: str
) -> None:
    claim(database, job_id)
    expire(database, job_id)
    with database.transaction() as session:
        assert execution.claim_job(session, job_id, "w", 30, max_attempts=1) is None
    assert read(client, job_id)["error"]["code"] == "poison_job"


def test_cancellation_reaches_the_worker(
    client: TestClient, database: Database, job_id: str
) -> None:
    token = claim(database, job_id).token
    with database.transaction() as session:
        assert not leases.renew(session, JOBS, job_id, token, 30)
        assert not execution.is_cancel_requested(session, job_id)
        execution.start_stage(session, job_id, token, "prepare")
    client.post(f"/v1/jobs/{job_id}/cancel")
    with database.transaction() as session:
        assert leases.renew(session, JOBS, job_id, token, 30)
        assert execution.is_cancel_requested(session, job_id)
        execution.finish_job(session, job_id, token, "cancelled")
    job = read(client, job_id)
    assert job["status"] == "cancelled"
    assert [stage["status"] for stage in job["stages"]] == ["failed"] + ["skipped"] * 4


def test_a_dead_workers_cancelled_job_is_cancelled(
    client: TestClient, database: Database, job_id: str
) -> None:
    claim(database, job_id)
    client.post(f"/v1/jobs/{job_id}/cancel")
    expire(database, job_id)
    sweep(database)
    assert read(client, job_id)["status"] == "cancelled"


def test_stage_results_survive_an_attempt(
    client: TestClient, database: Database, job_id: str
) -> None:
    token = claim(database, job_id).token
    with database.transaction() as session:
        execution.start_stage(session, job_id, token, "prepare")
        execution.report_progress(session, job_id, token, "prepare", 3, 10, "three")
        assert execution.find_stage_result(session, job_id, "prepare", "key") is None
        execution.finish_stage(session, job_id, token, "prepare", "key", SHA256, False)
        leases.release(session, JOBS, job_id, token, "crash")
    token = claim(database, job_id).token
    with database.transaction() as session:
        assert execution.find_stage_result(session, job_id, "prepare", "key") == SHA256
        assert execution.find_stage_result(session, job_id, "prepare", "other") is None
        execution.start_stage(session, job_id, token, "prepare")
        execution.finish_stage(session, job_id, token, "prepare", "key", SHA256, True)
        execution.skip_stage(session, job_id, token, "attribute", "no need")
    stages = read(client, job_id)["stages"]
    assert [stage["status"] for stage in stages[:3]] == ["succeeded", "skipped", "pending"]
    assert stages[0]["seconds"] >= 0


def test_a_running_stage_reports_progress_and_expected_end(
    client: TestClient, database: Database, job_id: str
) -> None:
    token = claim(database, job_id).token
    with database.transaction() as session:
        execution.start_stage(session, job_id, token, "prepare")
        execution.report_progress(
            session, job_id, token, "prepare", 30, 90, "3 of 9 responses", 60.5
        )
    stage = read(client, job_id)["stages"][0]
    assert stage["message"] == "3 of 9 responses"
    left = datetime.fromisoformat(stage["estimated_finish"]) - datetime.now(UTC)
    assert timedelta(0) < left <= timedelta(seconds=60.5)
    events = client.get(f"/v1/jobs/{job_id}/events?limit=1000").json()["data"]
    assert events[-1]["message"] == "Stage prepare: 3 of 9 responses."
    assert events[-1]["data"] == {
        "stage": "prepare",
        "done": 30,
        "total": 90,
        "remaining_seconds": 60.5,
    }
    with database.transaction() as session:
        execution.finish_stage(session, job_id, token, "prepare", "key", SHA256, False)
    stage = read(client, job_id)["stages"][0]
    assert (stage["done"], stage["message"], stage["estimated_finish"]) == (90, None, None)


@pytest.mark.parametrize(
    ("status", "verdict", "code"),
    [
        ("succeeded", None, None),
        ("succeeded", "rejected", None),
        ("rejected", "passed", None),
        ("failed", None, None),
        ("failed", "passed", "x"),
        ("cancelled", None, "x"),
        ("queued", None, None),
    ],
)
def test_status_and_verdict_never_disagree(
    database: Database, job_id: str, status: str, verdict: str | None, code: str | None
) -> None:
    token = claim(database, job_id).token
    with pytest.raises(ValueError, match="job"), database.transaction() as session:
        execution.finish_job(session, job_id, token, status, verdict, code)


def test_finishing_twice_is_impossible(client: TestClient, database: Database, job_id: str) -> None:
    token = claim(database, job_id).token
    with database.transaction() as session:
        execution.finish_job(session, job_id, token, "failed", None, "out_of_memory", "Too large.")
    with pytest.raises(LeaseLostError), database.transaction() as session:
        execution.finish_job(session, job_id, token, "succeeded", "passed")
    job = read(client, job_id)
    assert job["error"] == {"code": "out_of_memory", "message": "Too large.", "param": None}


def test_prompts_belong_to_the_tenant(database: Database, job_id: str) -> None:
    found = claim(database, job_id)
    prompts = found.spec.behaviours[0].prompts
    with database.transaction() as session:
        loaded = inputs.load_prompts(session, found.tenant_id, prompts)
        assert loaded[0].text == "undesired prompt 0"
        info = inputs.load_prompt_set_info(session, found.tenant_id, prompts)
        assert info.name == "undesired"
        assert len(info.sha256) == 64
        for load in (inputs.load_prompts, inputs.load_prompt_set_info):
            with pytest.raises(NotFoundError):
                load(session, "another tenant", prompts)
