"""Estimates over HTTP, and refusals of jobs, for workers that are in the database."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import delete, func, update

from excise.estimates.machine import USUAL_MACHINE, Machine
from service.database import Database
from service.jobs.execution import heartbeat_worker
from service.models import Job, Worker
from tests.integration.service.conftest import build_checkpoint, build_spec, submit, upload
from tests.shapes import LLAMA_8B

GIB = 2**30
SMALL = Machine(host_bytes=8 * GIB, flops=2e11, bytes_per_second=2e10)
LARGE = Machine(
    device="NVIDIA H100",
    device_bytes=80 * GIB,
    host_bytes=256 * GIB,
    flops=6e13,
    low_precision_flops=6e14,
    bytes_per_second=3.3e12,
)
Tell = Callable[..., None]


@pytest.fixture(autouse=True)
def workers(database: Database) -> Iterator[None]:
    """Removes all workers but the test's own."""
    clear(database)
    yield
    clear(database)


def clear(database: Database) -> None:
    with database.transaction() as session:
        session.execute(delete(Worker))


@pytest.fixture(autouse=True)
def models(model_root: Path) -> None:
    """A large model and a small one whose sizes are known."""
    build_checkpoint(model_root / "large", **LLAMA_8B)
    build_checkpoint(
        model_root / "small", **LLAMA_8B | {"num_hidden_layers": 1, "vocab_size": 32000}
    )


@pytest.fixture
def tell(database: Database) -> Tell:
    """A function that makes a worker report its machine."""

    def tell(name: str, machine: Machine | None, *, busy: str | None = None) -> None:
        with database.transaction() as session:
            heartbeat_worker(session, name, "host", 1, busy, machine)

    return tell


def ask(client: TestClient, machine: Machine | None = None, **changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"spec": build_spec(client, **changes)}
    if machine is not None:
        body["machine"] = machine.model_dump(mode="json")
    response = client.post("/v1/estimates", json=body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_without_workers_a_usual_machine_is_assumed_and_named(client: TestClient) -> None:
    found = ask(client, model="small")
    assert (found["object"], found["model"], found["fits"]) == ("estimate", "small", True)
    assert "No worker has reported its machine" in found["note"]
    (only,) = found["data"]
    assert (only["source"], only["workers"]) == ("usual", 0)
    assert only["machine"]["host_bytes"] == USUAL_MACHINE.host_bytes
    assert only["host_bytes"] > 600 * 2**20
    assert set(only["stages"]) == {"prepare", "attribute", "search", "validate", "package"}
    assert sum(only["stages"].values()) == pytest.approx(60 * only["minutes"])


def test_live_workers_get_estimates_tightest_first(
    client: TestClient, tell: Tell, database: Database
) -> None:
    tell("old", SMALL.model_copy(update={"host_bytes": GIB}))
    with database.transaction() as session:
        session.execute(
            update(Worker).values(heartbeat_at=func.clock_timestamp() - timedelta(minutes=5))
        )
    tell("a", LARGE)
    tell("b", LARGE.model_copy(update={"flops": 5e13}))
    tell("c", SMALL)
    tell("d", None)
    found = ask(client, model="large")
    assert found["note"] is None
    assert not found["fits"]
    small, large = found["data"]
    assert (small["fits"], small["workers"], small["source"]) == (False, 1, "worker")
    assert "of main memory, of 8.0 GiB" in small["problem"]
    assert (large["fits"], large["workers"]) == (True, 2)
    assert large["machine"]["flops"] == 5e13  # the slower one represents both


def test_a_heartbeat_without_a_machine_keeps_the_known_one(client: TestClient, tell: Tell) -> None:
    tell("a", LARGE)
    tell("a", None, busy="job_1")
    assert ask(client, model="large")["data"][0]["machine"]["device"] == "NVIDIA H100"


def test_a_described_machine_replaces_the_workers(client: TestClient, tell: Tell) -> None:
    tell("a", SMALL)
    found = ask(client, LARGE, model="large", dtype="bfloat16")
    (only,) = found["data"]
    assert (found["fits"], only["source"], found["note"]) == (True, "request", None)


def test_nothing_is_stored(client: TestClient) -> None:
    before = client.get("/v1/jobs").json()
    ask(client, model="large")
    assert client.get("/v1/jobs").json() == before


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"spec": {"kind": "circuit"}}, "spec.kind", "'correction'"),
        ({"spec": {"surprise": 1}}, "spec.surprise", "not a known field"),
        ({"spec": {"model": "nothing"}}, "spec.model", "small"),
        ({"spec": {"model": "tiny"}}, "spec.model", "does not say how large"),
        ({"spec": {"model": f"org/name@{'0' * 40}"}}, "spec.model", "EXCISE_HUB_ORGANISATIONS"),
        ({"spec": {"reference": "ps_nothing"}}, "spec.reference", "Upload one"),
        ({"machine": {"flops": 1e30}}, "machine.flops", "the limit is"),
        ({"machine": {"host_bytes": 0}}, "machine.host_bytes", ""),
        ({"machine": {"host_bytes": "8"}}, "machine.host_bytes", "an integer"),
        ({"machine": {"cores": 8}}, "machine.cores", "not a known field"),
        ({"surprise": 1}, "surprise", "not a known field"),
        ({"spec": ...}, "spec", "required"),
    ],
)
def test_a_refused_estimate_names_the_field(
    client: TestClient, change: dict[str, Any], param: str, says: str
) -> None:
    body: dict[str, Any] = {
        "spec": build_spec(client, model="small"),
        "machine": SMALL.model_dump(mode="json"),
    }
    for field, value in change.items():
        if value is ...:
            del body[field]
        else:
            body[field] = {**body[field], **value} if field in body else value
    response = client.post("/v1/estimates", json=body)
    assert response.status_code == 422, response.text
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_request", param)
    assert says in error["message"]


def test_a_field_of_a_behaviour_is_named_as_in_a_job(client: TestClient) -> None:
    spec = build_spec(client, model="small")
    spec["behaviours"][0]["threshold"] = 3
    response = client.post("/v1/estimates", json={"spec": spec})
    assert response.json()["error"]["param"] == "spec.behaviours[0].threshold"


def test_a_hub_model_is_unknown_until_a_worker_has_it(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = client.app.state.context.settings  # type: ignore[attr-defined]
    monkeypatch.setitem(vars(settings), "hub_organisations", ("*",))
    model = f"org/name@{'0' * 40}"
    response = client.post("/v1/estimates", json={"spec": build_spec(client, model=model)})
    assert response.status_code == 422
    assert "its size is unknown until a worker" in response.json()["detail"]
    assert submit(client, model=model)["estimate"] is None


def test_estimates_need_the_submit_scope(client: TestClient, make_key: Callable[..., str]) -> None:
    body = {"spec": build_spec(client, model="small")}
    for scopes, status in ((("infer",), 403), (("publish",), 403)):
        headers = {"Authorization": f"Bearer {make_key(scopes=scopes)}"}
        assert client.post("/v1/estimates", json=body, headers=headers).status_code == status
    headers = {"Authorization": f"Bearer {make_key()}"}
    other = client.post("/v1/estimates", json=body, headers=headers)
    assert other.json()["error"]["param"] == "spec.behaviours[0].prompts"  # another tenant's set


def test_a_job_carries_its_estimate(client: TestClient, tell: Tell) -> None:
    assert submit(client, model="tiny")["estimate"] is None
    assert submit(client, model="small")["estimate"]["source"] == "usual"
    tell("a", LARGE)
    job = submit(client, model="large", dtype="bfloat16")
    assert (job["estimate"]["source"], job["estimate"]["fits"]) == ("worker", True)
    asked = ask(client, model="large", dtype="bfloat16")["data"][0]
    assert asked == job["estimate"]
    assert client.get(f"/v1/jobs/{job['id']}").json() == job


def test_a_job_that_cannot_fit_is_refused_with_what_would_fit(
    client: TestClient, tell: Tell, database: Database
) -> None:
    tell("a", LARGE)
    tell("b", LARGE.model_copy(update={"device_bytes": 40 * GIB}))
    spec = build_spec(client, model="large", attribution={"granularity": "weight"})
    response = client.post("/v1/jobs", json=spec)
    assert response.status_code == 422
    problem = response.json()
    assert problem["type"].endswith("/does_not_fit")
    assert (problem["error"]["code"], problem["error"]["param"]) == ("does_not_fit", None)
    assert "on the device, which has 40.0 GiB" in problem["detail"]
    assert "dtype = bfloat16 (" in problem["detail"]
    assert "set insist to true" in problem["detail"]
    with database.transaction() as session:
        assert session.query(Job).filter(Job.model == "large", Job.spec == spec).count() == 0
    assert client.post("/v1/jobs", json={**spec, "dtype": "bfloat16"}).status_code == 201


def test_the_user_may_insist(client: TestClient, tell: Tell) -> None:
    tell("a", SMALL)
    job = submit(client, model="large", insist=True)
    assert job["spec"]["insist"] is True
    assert not job["estimate"]["fits"]
    assert "insist" not in submit(client, model="small")["spec"]


def test_no_room_for_results_is_a_reason_too(client: TestClient, tell: Tell) -> None:
    tell("a", LARGE.model_copy(update={"disk_bytes": 1000}))
    response = client.post("/v1/jobs", json=build_spec(client, model="small"))
    assert "where results are kept, of which 0 MiB are free" in response.json()["detail"]


def test_an_assumed_machine_is_no_reason_to_refuse(client: TestClient) -> None:
    job = submit(client, model="large")
    assert (job["estimate"]["fits"], job["estimate"]["source"]) == (False, "usual")


def test_longer_prompts_take_longer(client: TestClient, tell: Tell) -> None:
    tell("a", SMALL)
    spec = build_spec(client, model="small")
    few = submit(client, model="small")["estimate"]["minutes"]
    spec["behaviours"][0]["prompts"] = upload(client, 400, "many")
    many = client.post("/v1/jobs", json=spec).json()["estimate"]["minutes"]
    assert many > few


def test_the_openapi_document_shows_an_estimate(app_client: TestClient) -> None:
    document = app_client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    example = schemas["JobEstimate"]["examples"][0]
    assert {"machine", "host_bytes", "cheaper", "source"} <= set(example)
    assert json.dumps(schemas["JobView"]["properties"]["estimate"]).count("JobEstimate") == 1
    assert "insist" in schemas["CorrectionSpec"]["properties"]


@pytest.mark.parametrize(
    ("machines", "chosen"), [([], "float32"), ([LARGE], "bfloat16"), ([LARGE, SMALL], "float32")]
)
def test_an_automatic_dtype_is_decided_when_the_job_is_submitted(
    client: TestClient, tell: Tell, machines: list[Machine], chosen: str
) -> None:
    for number, machine in enumerate(machines):
        tell(str(number), machine)
    spec = build_spec(client, model="small", dtype="auto")
    headers = {"Idempotency-Key": f"automatic-{chosen}-{len(machines)}"}
    job = client.post("/v1/jobs", json=spec, headers=headers).json()
    assert job["spec"]["dtype"] == chosen
    tell("0", SMALL)  # another machine changes nothing about a job that is there
    again = client.post("/v1/jobs", json=spec, headers=headers).json()
    assert (again["id"], again["spec"]["dtype"]) == (job["id"], chosen)
