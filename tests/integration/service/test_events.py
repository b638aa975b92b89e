"""A job's events: pages, and a stream that resumes."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from fastapi.testclient import TestClient

from service.database import Database
from service.jobs.execution import claim_job, finish_job, record_event, report_progress, start_stage
from tests.integration.service.conftest import submit


def read_stream(client: TestClient, path: str, **headers: str) -> list[dict[str, Any]]:
    """Return the events of a stream that ends."""
    response = client.get(path, headers={"Accept": "text/event-stream", **headers})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    events = []
    for block in response.text.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] != ":")
        if fields:
            events.append({**fields, "data": json.loads(fields["data"])})
    return events


def test_events_are_paged_oldest_first(client: TestClient, database: Database) -> None:
    job_id = submit(client)["id"]
    with database.transaction() as session:
        claim = claim_job(session, job_id, "w", 30)
        assert claim
        for index in range(3):
            record_event(session, job_id, claim.token, "note", f"note {index}", {"n": index})
    path = f"/v1/jobs/{job_id}/events"
    first = client.get(f"{path}?limit=2").json()
    rest = client.get(f"{path}?after={first['data'][-1]['id']}").json()
    messages = [event["message"] for event in first["data"] + rest["data"]]
    assert messages[2:] == ["note 0", "note 1", "note 2"]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert rest["data"][0]["object"] == "job.event"
    assert rest["data"][0]["data"] == {"n": 0}
    assert client.get(f"{path}?after=-1").status_code == 422
    assert client.get(f"{path}?after={2**63}").status_code == 422


def test_progress_events_are_sparse(client: TestClient, database: Database) -> None:
    job_id = submit(client)["id"]
    with database.transaction() as session:
        claim = claim_job(session, job_id, "w", 30)
        assert claim
        start_stage(session, job_id, claim.token, "prepare")
        for done in range(201):
            report_progress(session, job_id, claim.token, "prepare", done, 200)
    events = client.get(f"/v1/jobs/{job_id}/events?limit=1000").json()["data"]
    progress = [event for event in events if event["type"] == "stage.progress"]
    assert [event["data"]["done"] for event in progress] == [0, 1, *range(20, 201, 20)]
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert (job["stage"], job["stages"][0]["done"], job["stages"][0]["total"]) == (
        "prepare",
        200,
        200,
    )


def test_a_stream_follows_a_job_to_its_end(client: TestClient, database: Database) -> None:
    job_id = submit(client)["id"]

    def work() -> None:
        time.sleep(0.3)
        with database.transaction() as session:
            claim = claim_job(session, job_id, "w", 30)
        assert claim
        time.sleep(0.3)
        with database.transaction() as session:
            finish_job(session, job_id, claim.token, "rejected", "no_effect")

    worker = threading.Thread(target=work)
    worker.start()
    events = read_stream(client, f"/v1/jobs/{job_id}/events")
    worker.join()
    assert [event["event"] for event in events] == [
        "job.queued",
        "job.started",
        "job.rejected",
        "done",
    ]
    assert events[-1]["data"]["status"] == "rejected"
    assert events[0]["data"]["id"] == int(events[0]["id"])


def test_a_stream_resumes_after_the_last_event(client: TestClient, database: Database) -> None:
    job_id = submit(client)["id"]
    client.post(f"/v1/jobs/{job_id}/cancel")
    path = f"/v1/jobs/{job_id}/events?stream=true"
    whole = read_stream(client, path)
    resumed = read_stream(client, path, **{"Last-Event-ID": whole[0]["id"]})
    assert resumed == whole[1:]
    for bad in ("x", "-1", "9" * 30):
        response = client.get(path, headers={"Last-Event-ID": bad})
        assert response.json()["error"]["param"] == "Last-Event-ID"
