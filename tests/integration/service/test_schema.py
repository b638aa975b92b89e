"""The service against its own OpenAPI document: Schemathesis with every check."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session

from excise.names import JobStatus, Verdict, VersionStatus
from excise.resources.webhooks import WebhookRequest
from service.database import Database
from service.keys.operations import authenticate
from service.models import Job, ModelVersion, new_id
from service.settings import Settings
from service.webhooks.operations import MAX_WEBHOOKS, create_webhook
from tests.integration.service.test_server import serve_in_process

EXAMPLES = 4
"""Examples per call in the phases that draw at random; all limits of the schema are tested."""
ROOT = Path(__file__).resolve().parents[3]
PROBLEM = "application/problem+json"


@dataclass(frozen=True)
class Served:
    """A service, with one tenant's key that has every scope."""

    url: str
    key: str
    tenant_id: str


@pytest.fixture
def served(
    settings: Settings, make_key: Callable[..., str], database: Database
) -> Iterator[Served]:
    """The service as a process, with quotas too high to matter."""
    key = make_key(scopes=("submit", "publish", "infer", "admin"))
    with database.transaction() as session:
        tenant_id = authenticate(session, key).tenant_id
    quotas = settings.quotas.model_copy(update={"open_jobs": 10**6, "keys": 10**6})
    generous = settings.model_copy(update={"quotas": quotas, "max_open_jobs_per_key": 10**6})
    with serve_in_process(generous) as (_, url):
        yield Served(url, key, tenant_id)


def run_schemathesis(served: Served, folder: Path, *options: str) -> None:
    """Run Schemathesis from the repository's root, where schemathesis.toml is."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli"),
        *("--config-file", str(ROOT / "schemathesis.toml"), "run", f"{served.url}/openapi.json"),
        *("--checks", "all", "--generation-deterministic", "--continue-on-failure", "--no-color"),
        *("-H", f"Authorization: Bearer {served.key}", *options),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]


@pytest.mark.timeout(1500)
def test_schemathesis_finds_nothing(served: Served, tmp_path: Path) -> None:
    phases = ("--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES))
    run_schemathesis(served, tmp_path, *phases)


FOLLOWED = {
    "/v1/jobs": (
        *("GET /v1/jobs/job_[^/]+", "POST /v1/jobs/job_.*/cancel", "GET /v1/jobs/job_.*/events"),
        *("DELETE /v1/jobs/job_.*/artifacts", "DELETE /v1/jobs/job_[^/]+"),
    ),
    "/v1/(prompt-sets|keys)": (
        *("GET /v1/prompt-sets/ps_.*", "DELETE /v1/prompt-sets/ps_.*", "DELETE /v1/keys/key_.*"),
    ),
    "/v1/webhooks": (
        *("GET /v1/webhooks/wh_[^/]+", "PATCH /v1/webhooks/wh_.*", "POST /v1/webhooks/wh_.*/ping"),
        *("POST /v1/webhooks/wh_.*/rotate", "GET /v1/webhooks/wh_.*/deliveries"),
        "DELETE /v1/webhooks/wh_.*",
    ),
    "/v1/(models|versions|aliases)": (
        *("GET /v1/models/mv_.*", "GET /v1/versions/mv_[^/]+", "GET /v1/versions/mv_.*/events"),
        *("POST /v1/aliases/.*/promote", "GET /v1/aliases/[^/]+", "GET /v1/aliases/.*/events"),
    ),
}
"""Path pattern of calls that are walked together → those that find nothing unless an earlier answer
named it. With all calls at once, some would be left out by chance."""
WALKS = 25
"""Number of walks through each group, of up to `max-steps` calls each."""


@pytest.mark.timeout(1500)
def test_schemathesis_follows_links(served: Served, database: Database, tmp_path: Path) -> None:
    """Calls that read, change and delete what earlier calls made, all with correct answers."""
    with database.transaction() as session:
        add_webhooks(session, served.tenant_id)
    add_version(served, database)
    for number, (paths, calls) in enumerate(FOLLOWED.items()):
        log = tmp_path / f"{number}.har"
        run_schemathesis(
            served,
            tmp_path,
            *("--phases", "stateful", "--max-examples", str(WALKS)),
            *("--include-path-regex", f"^{paths}", "--report-har-path", str(log)),
        )
        met = read_successes(log)
        unmet = [call for call in calls if not any(re.fullmatch(call, one) for one in met)]
        assert not unmet, f"calls that went well: {sorted(met)}"


def read_successes(log: Path) -> set[str]:
    """Return method and path of every call that was answered with 2xx."""
    entries = json.loads(log.read_text())["log"]["entries"]
    return {
        f"{entry['request']['method']} {urlsplit(entry['request']['url']).path}"
        for entry in entries
        if 200 <= entry["response"]["status"] < 300
    }


def add_webhooks(session: Session, tenant_id: str) -> None:
    """Add webhooks whose hosts are never looked up: here no host has an address."""
    request = WebhookRequest(url="https://hooks.example.com/excise")
    for _ in range(MAX_WEBHOOKS):
        create_webhook(session, tenant_id, request)


def add_version(served: Served, database: Database) -> None:
    """Add a live version of a job that passed."""
    job = httpx.post(
        f"{served.url}/v1/jobs",
        json={"kind": "circuit", "model": "tiny", "task": "ioi"},
        headers={"Authorization": f"Bearer {served.key}"},
    ).json()
    with database.transaction() as session:
        found = session.get_one(Job, job["id"])
        found.status, found.verdict = JobStatus.SUCCEEDED, Verdict.PASSED
        session.add(
            ModelVersion(
                id=new_id("mv"),
                tenant_id=served.tenant_id,
                job_id=found.id,
                api_key_id=found.api_key_id,
                base_model="tiny",
                pool="pool",
                max_rank=8,
                verdict=Verdict.PASSED,
                patch_sha256="0" * 64,
                status=VersionStatus.LIVE,
                served_name="tiny-corrected",
            )
        )


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
def test_a_wrong_method_is_answered_with_the_allowed_ones(
    client: TestClient, path: str, methods: str
) -> None:
    response = client.patch(path)
    assert (response.status_code, response.headers["allow"]) == (405, methods)
    assert response.headers["content-type"] == PROBLEM


@pytest.mark.parametrize(
    ("body", "place"), [("{", 1), ('{"kind": }', 9), ("", 0), ("[1, 2", 5), ("nothing", 0)]
)
def test_malformed_json_is_reported_as_such(client: TestClient, body: str, place: int) -> None:
    headers = {"Content-Type": "application/json"}
    error = client.post("/v1/jobs", content=body, headers=headers).json()["error"]
    assert error["param"] == "body"
    if body:
        assert f"not valid JSON at character {place}" in error["message"]


@pytest.mark.parametrize(
    "query",
    ["limit=1_0", "limit=%205", "limit=5.0", "limit=+5", "limit=", "after=job_x", "limit=0"],
)
def test_queries_are_parsed_as_strictly_as_described(client: TestClient, query: str) -> None:
    response = client.get(f"/v1/jobs?{query}")
    assert response.status_code == 422
    assert response.json()["error"]["param"] == query.partition("=")[0]


@pytest.mark.parametrize("word", ["1", "yes", "on", "t", ""])
def test_booleans_are_written_out(client: TestClient, word: str) -> None:
    response = client.get(f"/v1/jobs/job_{'0' * 24}/events?stream={word}")
    assert (response.status_code, response.json()["error"]["param"]) == (422, "stream")


def test_a_trailing_slash_does_not_redirect(client: TestClient) -> None:
    """It once redirected to whatever host the client named."""
    response = client.get("/v1/jobs/", headers={"Host": "evil.example"}, follow_redirects=False)
    assert response.status_code == 404
    assert "location" not in response.headers


@pytest.mark.parametrize("name", ["", "a" * 129, "a\tb", "a\u2028b", "a\u200bb", "\u00a0"])
def test_names_that_sets_must_not_have(client: TestClient, name: str) -> None:
    headers = {"Content-Type": "text/plain"}
    response = client.post("/v1/prompt-sets", params={"name": name}, content="one", headers=headers)
    assert (response.status_code, response.json()["error"]["param"]) == (422, "name")


def test_names_in_many_scripts_are_accepted(client: TestClient) -> None:
    headers = {"Content-Type": "text/plain"}
    for name in ("Ärger über alles", "笨蛋 1", "प्रश्न", "loops 🔁 (1)"):
        response = client.post(
            "/v1/prompt-sets", params={"name": name}, content="one", headers=headers
        )
        assert response.json()["name"] == name


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_monitor_may_ask_for_health_without_a_body(client: TestClient, path: str) -> None:
    asked, whole = client.head(path), client.get(path)
    assert (asked.status_code, asked.headers["content-type"]) == (
        whole.status_code,
        whole.headers["content-type"],
    )
    assert "head" not in client.get("/openapi.json").json()["paths"][path]
