"""The service against its own OpenAPI document: Schemathesis, every check, links followed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.settings import Settings
from tests.integration.service.test_server import serve_in_process

EXAMPLES = 4
"""Of each call in the phases that draw at random; the schema's own limits are all tried."""
ROOT = Path(__file__).resolve().parents[3]
PROBLEM = "application/problem+json"


@pytest.mark.timeout(1500)
def test_schemathesis_finds_nothing(settings: Settings, make_key: Callable[..., str]) -> None:
    """As anybody would run it from the repository's root, where schemathesis.toml lies."""
    key = make_key(scopes=("submit", "publish", "infer", "admin"))
    quotas = settings.quotas.model_copy(update={"open_jobs": 10**6, "keys": 10**6})
    generous = settings.model_copy(update={"quotas": quotas, "max_open_jobs_per_key": 10**6})
    with serve_in_process(generous) as (_, url):
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"),
            *("--checks", "all", "--max-examples", str(EXAMPLES), "--generation-deterministic"),
            *("--continue-on-failure", "--no-color", "-H", f"Authorization: Bearer {key}"),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    links = re.search(r"API Links: +(\d+) covered", done.stdout)
    assert links, done.stdout
    assert int(links[1]) > 0, done.stdout


def test_every_error_is_described_as_it_is_sent(app_client: TestClient) -> None:
    document = app_client.get("/openapi.json").json()
    assert "HTTPValidationError" not in str(document)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if path.startswith("/v1/"):
                assert {"401", "403", "422", "500", "503"} <= set(operation["responses"])
            for status, response in operation["responses"].items():
                if int(status) >= 400 and path != "/readyz":
                    content = response["content"][PROBLEM]
                    assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
                    assert content["example"]["status"] == int(status), (method, path)


def test_every_json_body_has_an_example(app_client: TestClient) -> None:
    document = app_client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            if "application/json" in content:
                assert content["application/json"]["examples"], (method, path)


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/jobs", "GET, POST"),
        (f"/v1/jobs/job_{'0' * 24}", "DELETE, GET"),
        ("/v1/prompt-sets", "GET, POST"),
        ("/v1/keys", "GET, POST"),
        ("/healthz", "GET"),
    ],
)
def test_a_wrong_method_is_told_all_right_ones(client: TestClient, path: str, methods: str) -> None:
    response = client.patch(path)
    assert (response.status_code, response.headers["allow"]) == (405, methods)
    assert response.headers["content-type"] == PROBLEM


@pytest.mark.parametrize(
    ("body", "place"), [("{", 1), ('{"kind": }', 9), ("", 0), ("[1, 2", 5), ("nothing", 0)]
)
def test_malformed_json_is_called_that(client: TestClient, body: str, place: int) -> None:
    headers = {"Content-Type": "application/json"}
    error = client.post("/v1/jobs", content=body, headers=headers).json()["error"]
    assert error["param"] == "body"
    if body:
        assert f"not valid JSON at character {place}" in error["message"]


@pytest.mark.parametrize(
    "query",
    ["limit=1_0", "limit=%205", "limit=5.0", "limit=+5", "limit=", "after=job_x", "limit=0"],
)
def test_queries_are_read_as_strictly_as_they_are_described(client: TestClient, query: str) -> None:
    response = client.get(f"/v1/jobs?{query}")
    assert response.status_code == 422
    assert response.json()["error"]["param"] == query.partition("=")[0]


@pytest.mark.parametrize("word", ["1", "yes", "on", "t", ""])
def test_a_truth_is_written_out(client: TestClient, word: str) -> None:
    response = client.get(f"/v1/jobs/job_{'0' * 24}/events?stream={word}")
    assert (response.status_code, response.json()["error"]["param"]) == (422, "stream")


def test_a_path_with_a_slash_too_many_leads_nowhere_else(client: TestClient) -> None:
    """It led to whatever host the client named."""
    response = client.get("/v1/jobs/", headers={"Host": "evil.example"}, follow_redirects=False)
    assert response.status_code == 404
    assert "location" not in response.headers


@pytest.mark.parametrize("name", ["", "a" * 129, "a\tb", "a\u2028b", "a\u200bb", "\u00a0"])
def test_names_no_set_may_have(client: TestClient, name: str) -> None:
    headers = {"Content-Type": "text/plain"}
    response = client.post("/v1/prompt-sets", params={"name": name}, content="one", headers=headers)
    assert (response.status_code, response.json()["error"]["param"]) == (422, "name")


def test_names_of_many_scripts_are_taken(client: TestClient) -> None:
    headers = {"Content-Type": "text/plain"}
    for name in ("Ärger über alles", "笨蛋 1", "प्रश्न", "loops 🔁 (1)"):
        response = client.post(
            "/v1/prompt-sets", params={"name": name}, content="one", headers=headers
        )
        assert response.json()["name"] == name
