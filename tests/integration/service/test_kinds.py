"""Circuit and compression jobs through the API: their prompt sets, stages and rejections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.integration.service.conftest import upload

ROW = b'{"clean": "a b", "corrupted": "a c", "answer": " d", "wrong": " e"}'


def upload_rows(client: TestClient, count: int) -> str:
    response = client.post(
        "/v1/prompt-sets?name=rows&format=rows",
        content=b"\n".join([ROW] * count),
        headers={"Content-Type": "application/jsonl"},
    )
    assert response.status_code in {200, 201}, response.text
    assert (response.json()["format"], response.json()["prompts"]) == ("rows", count)
    return str(response.json()["id"])


def build_compression(client: TestClient, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "compression",
        "model": "tiny",
        "calibration": {"prompts": upload(client, 4, "calibration")},
        "perplexity": {"prompts": upload(client, 2, "corpus")},
        **changes,
    }


def refuse(client: TestClient, spec: dict[str, Any]) -> dict[str, Any]:
    response = client.post("/v1/jobs", json=spec)
    assert response.status_code == 422, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


@pytest.mark.parametrize("task", ["ioi", "greater_than", "rows"])
def test_a_circuit_job_is_queued_with_its_stages(client: TestClient, task: str) -> None:
    spec = {"kind": "circuit", "model": "tiny", "task": task}
    if task == "rows":
        spec["task"] = upload_rows(client, 12)
    response = client.post("/v1/jobs", json=spec)
    assert response.status_code == 201, response.text
    job = response.json()
    assert (job["kind"], job["status"]) == ("circuit", "queued")
    assert [stage["name"] for stage in job["stages"]] == [
        "prepare",
        "discover",
        "validate",
        "package",
    ]
    assert client.get(f"/v1/jobs/{job['id']}").json() == job


def test_a_compression_job_is_queued_with_its_stages(client: TestClient) -> None:
    tasks = [{"name": "rte", "rows": upload_rows(client, 2)}]
    response = client.post("/v1/jobs", json=build_compression(client, tasks=tasks))
    assert response.status_code == 201, response.text
    names = [stage["name"] for stage in response.json()["stages"]]
    assert names == ["prepare", "compress", "validate", "package"]


def test_sets_of_the_wrong_format_are_rejected(client: TestClient) -> None:
    circuit = {"kind": "circuit", "model": "tiny", "task": upload(client, 20, "prompts")}
    error = refuse(client, circuit)
    assert (error["param"], "format=rows" in error["message"]) == ("task", True)
    rows = upload_rows(client, 20)
    error = refuse(client, build_compression(client, calibration={"prompts": rows}))
    assert (error["param"], "rows where prompts" in error["message"]) == (
        "calibration.prompts",
        True,
    )
    error = refuse(client, build_compression(client, tasks=[{"name": "rte", "rows": "ps_none"}]))
    assert error["param"] == "tasks[0].rows"


def test_too_few_rows_are_rejected(client: TestClient) -> None:
    circuit = {"kind": "circuit", "model": "tiny", "task": upload_rows(client, 11)}
    error = refuse(client, circuit)
    assert (error["param"], "has 11 rows; the least is 12" in error["message"]) == ("task", True)


def test_rows_need_json_lines(client: TestClient) -> None:
    response = client.post(
        "/v1/prompt-sets?name=rows&format=rows", content=ROW, headers={"Content-Type": "text/plain"}
    )
    assert response.json()["error"]["param"] == "Content-Type"
    response = client.post("/v1/prompt-sets?name=rows&format=tables", content=ROW)
    assert response.json()["error"]["param"] == "format"


def test_a_task_without_rows_needs_the_servers_own(
    client: TestClient, settings: Settings, tmp_path: Path
) -> None:
    spec = build_compression(client, tasks=[{"name": "rte"}])
    assert refuse(client, spec)["param"] == "tasks[0].rows"
    (tmp_path / "task_rte.jsonl").write_bytes(ROW)
    provided = settings.model_copy(update={"task_data": tmp_path})
    with TestClient(create_app(provided)) as other:
        other.headers["Authorization"] = client.headers["Authorization"]
        assert other.post("/v1/jobs", json=spec).status_code == 201


def test_the_api_description_names_every_kind(app_client: TestClient) -> None:
    schemas = app_client.get("/openapi.json").json()["components"]["schemas"]
    assert {"CorrectionSpec", "CircuitSpec", "CompressionSpec"} <= schemas.keys()
