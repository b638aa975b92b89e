"""Jobs over HTTP: submitting, idempotency, reading, cancelling, errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from excise.patterns.searching import Expression
from excise.specs import CorrectionSpec
from service.app import create_app
from service.database import Database
from service.jobs import operations, pattern_lines
from service.jobs.execution import attach_artifact, claim_job, finish_job, start_stage
from service.keys.operations import authenticate, create_key
from service.models import Job, OutboxMessage
from service.settings import Settings
from tests.integration.service.conftest import build_spec, submit, upload


def replace(spec: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """Return `spec` with the value at a dotted path replaced, added or (with ...) removed."""
    head, _, rest = path.partition(".")
    copy: Any = list(spec) if isinstance(spec, list) else dict(spec)
    key: Any = int(head) if head.isdigit() else head
    if rest:
        copy[key] = replace(copy[key] if isinstance(copy, list) else copy.get(key, {}), rest, value)
    elif value is ...:
        del copy[key]
    else:
        copy[key] = value
    return copy


def test_a_submitted_job_looks_as_the_contract_says(client: TestClient) -> None:
    job = submit(client, metadata={"ticket": "SAFE-12"})
    assert job["object"] == "job"
    assert job["status"] == "queued"
    assert {job[name] for name in ("verdict", "error", "stage", "started_at")} == {None}
    assert job["metadata"] == {"ticket": "SAFE-12"}
    assert [stage["name"] for stage in job["stages"]] == [
        "prepare",
        "attribute",
        "search",
        "validate",
        "package",
    ]
    assert job["stages"][0] == {
        "name": "prepare",
        "status": "pending",
        "done": 0,
        "total": None,
        "message": None,
        "estimated_finish": None,
        "seconds": None,
    }
    assert job["artifacts"] == []
    assert client.get(f"/v1/jobs/{job['id']}").json() == job


NEW_TOKENS = "behaviours[0].decoding.max_new_tokens"


@pytest.mark.parametrize(
    ("path", "value", "param", "says"),
    [
        ("behaviours.0.decoding", {"max_new_tokens": 4096}, NEW_TOKENS, "the limit is 512"),
        ("behaviours.0.decoding", {"max_new_tokens": 7}, NEW_TOKENS, "the least is 8"),
        ("behaviours.0.decoding", {"max_new_tokens": "50"}, NEW_TOKENS, "an integer"),
        ("behaviours.0.decoding", {"samples": 5}, "behaviours[0].decoding", "temperature above 0"),
        ("behaviours.0.threshold", 1.0, "behaviours[0].threshold", "below 1"),
        ("behaviours.0.kind", "vibes", "behaviours[0].kind", "repetition"),
        ("behaviours", [], "behaviours", "too few"),
        ("behaviours.0.prompts", "ps_nothing", "behaviours[0].prompts", "Upload one"),
        ("kind", "miracle", "kind", "correction, circuit, compression"),
        ("kind", ..., "kind", "required"),
        ("surprise", 1, "surprise", "not a known field"),
        ("search.amounts", [4, 4], "search.amounts", "ascending"),
        ("search.amounts", list(range(1, 40)), "search.amounts", "the limit is 32"),
        ("search.amounts", [0], "search.amounts[0]", "the least is 1"),
        ("budget.kl_mean", -1, "budget.kl_mean", "the least is 0"),
        ("seed", 2**31, "seed", "the limit is 2147483647"),
        ("attribution.attributor", "magic", "attribution.attributor", "attnlrp"),
        ("metadata", {str(i): "" for i in range(17)}, "metadata", "the limit is 16"),
        ("metadata", {"a": "b" * 513}, "metadata.a", "512"),
        ("metadata", {"a": "\0"}, "metadata.a", "NUL"),
        ("model", "https://example.com/model", "model", "URL"),
        ("model", "nothing", "model", "tiny"),
        ("model", "\ud800", "model", ""),
    ],
)
def test_bad_specs_name_the_field_the_limit_and_the_remedy(
    client: TestClient, path: str, value: object, param: str, says: str
) -> None:
    spec = replace(build_spec(client), path, value)
    response = client.post(
        "/v1/jobs", content=json.dumps(spec), headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["error"]["param"] == param
    assert problem["error"]["message"] == problem["detail"]
    assert problem["error"]["code"] == "invalid_request"
    assert problem["type"].endswith("/invalid_request")
    assert says in problem["detail"]


def test_small_prompt_sets_are_rejected(client: TestClient) -> None:
    spec = build_spec(client)
    single = replace(spec, "behaviours.0.prompts", upload(client, 1, "one"))
    response = client.post("/v1/jobs", json=single)
    assert response.json()["error"]["param"] == "behaviours[0].prompts"
    assert "has 1 prompt; the least is 4" in response.json()["detail"]
    response = client.post("/v1/jobs", json=replace(spec, "reference", upload(client, 7, "seven")))
    assert response.json()["error"]["param"] == "reference"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"\xff", b"nul", b'{"seed": ' + b"9" * 5000 + b"}", b"[" * 5000],
)
def test_bodies_that_are_not_specs(client: TestClient, body: bytes) -> None:
    response = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "invalid_request"
    assert len(response.content) < 1500


def test_large_bodies_are_rejected_and_inputs_not_repeated(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    large = client.post("/v1/jobs", content=b'"' + b"a" * 2**21 + b'"', headers=headers)
    assert large.status_code == 413
    chunked = client.post("/v1/jobs", content=iter([b"a" * 2**20] * 3), headers=headers)
    assert chunked.status_code == 413
    spec = replace(build_spec(client), "model", "secret" * 200)
    assert "secret" not in client.post("/v1/jobs", json=spec).text


def test_the_frameworks_own_errors_are_problems_too(client: TestClient) -> None:
    for method, path, status in (("GET", "/nowhere", 404), ("PUT", "/v1/jobs", 405)):
        response = client.request(method, path)
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["x-request-id"]
        assert response.json()["status"] == status


def test_an_unexpected_exception_reveals_nothing(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(operations, "list_jobs", fail)
    response = client.get("/v1/jobs", headers={"X-Request-ID": "abc-1"})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal"
    assert "secret" not in response.text
    assert response.headers["x-request-id"] == "abc-1"
    assert response.headers["x-content-type-options"] == "nosniff"


def test_an_idempotency_key_gives_the_first_job(client: TestClient) -> None:
    spec = build_spec(client)
    key = {"Idempotency-Key": "abc"}
    first = client.post("/v1/jobs", json=spec, headers=key)
    again = client.post("/v1/jobs", json=dict(reversed(spec.items())), headers=key)
    other = client.post("/v1/jobs", json={**spec, "seed": 1}, headers=key)
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 409)
    assert first.json()["id"] == again.json()["id"]
    assert other.json()["error"]["code"] == "conflict"
    for bad in ("", "a" * 256, "\t"):
        response = client.post("/v1/jobs", json=spec, headers={"Idempotency-Key": bad})
        assert response.status_code == 422
    twice = client.post("/v1/jobs", json=spec, headers=[*key.items(), ("idempotency-key", "b")])
    assert twice.status_code == 422
    assert twice.json()["error"]["param"] == "Idempotency-Key"


def test_concurrent_duplicates_give_one_job(
    client: TestClient,
    make_key: Callable[..., str],
    database: Database,
    settings: Settings,
) -> None:
    """Through one API key, and through two of one tenant."""
    spec = CorrectionSpec.model_validate(build_spec(client))
    with database.transaction() as session:
        mine = authenticate(session, client.headers["Authorization"].removeprefix("Bearer "))
    with database.transaction() as session:
        other_secret = create_key(session, mine.tenant_id, "other", ["submit"])[1]
    with database.transaction() as session:
        other = authenticate(session, other_secret)

    def submit_once(identity: Any) -> str:
        with database.transaction() as session:
            return operations.submit_job(session, identity, spec, settings, "same")[0].id

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(submit_once, [mine, other] * 8))
    assert len(ids) == 1
    with database.transaction() as session:
        job_id = ids.pop()
        assert session.scalar(select(func.count()).where(OutboxMessage.job_id == job_id)) == 1
        count = select(func.count(Job.id)).where(Job.tenant_id == mine.tenant_id)
        assert session.scalar(count) == 1


def test_a_crash_before_the_response_loses_and_duplicates_nothing(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    """The job is committed, the response is lost, and the client asks again."""
    spec = build_spec(client)
    key = {"Idempotency-Key": "crash"}
    original = Database.transaction

    class LostAfterCommitError(Exception):
        pass

    @contextmanager
    def commit_and_crash(self: Database) -> Any:
        with original(self) as session:
            yield session
            is_submission = session.scalar(select(func.count(Job.id))) and any(
                isinstance(row, Job) for row in session.identity_map.values()
            )
        if is_submission:
            raise LostAfterCommitError

    monkeypatch.setattr(Database, "transaction", commit_and_crash)
    assert client.post("/v1/jobs", json=spec, headers=key).status_code == 500
    monkeypatch.setattr(Database, "transaction", original)
    again = client.post("/v1/jobs", json=spec, headers=key)
    assert again.status_code == 200
    assert [job["id"] for job in client.get("/v1/jobs").json()["data"]] == [again.json()["id"]]


def test_a_rolled_back_submission_leaves_nothing(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    spec = build_spec(client)
    monkeypatch.setattr(operations, "enqueue", fail)
    key = {"Idempotency-Key": "rollback"}
    assert client.post("/v1/jobs", json=spec, headers=key).status_code == 500
    monkeypatch.undo()
    assert client.get("/v1/jobs").json()["data"] == []
    assert client.post("/v1/jobs", json=spec, headers=key).status_code == 201


def test_jobs_are_listed_newest_first_page_by_page(client: TestClient) -> None:
    made = [submit(client)["id"] for _ in range(5)]
    first = client.get("/v1/jobs?limit=3").json()
    submit(client)  # a newer job does not shift the next page
    second = client.get(f"/v1/jobs?limit=3&after={first['data'][-1]['id']}").json()
    assert [job["id"] for job in first["data"] + second["data"]] == made[::-1]
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert client.get("/v1/jobs?after=job_nothing").json()["error"]["param"] == "after"
    unknown = client.get(f"/v1/jobs?after=job_{'0' * 24}")
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "after")
    assert client.get("/v1/jobs?limit=101").json()["error"]["param"] == "limit"


def test_a_list_describes_even_large_jobs_briefly(client: TestClient, database: Database) -> None:
    long = {f"key {index}": "x" * 512 for index in range(16)}
    job_id = submit(client, metadata=long)["id"]
    with database.transaction() as session:
        claim = claim_job(session, job_id, "w", 30)
        assert claim
        start_stage(session, job_id, claim.token, "prepare")
    response = client.get("/v1/jobs")
    assert len(response.content) < 1000
    listed = response.json()["data"][0]
    assert listed["object"] == "job.summary"
    assert (listed["status"], listed["stage"], listed["error_code"]) == ("running", "prepare", None)
    whole = client.get(f"/v1/jobs/{job_id}").json()
    assert whole["metadata"] == long
    assert {name: whole.get(name) for name in listed} == listed | {
        "object": "job",
        "error_code": None,
    }


def test_an_etag_changes_with_the_job(client: TestClient, database: Database) -> None:
    path = f"/v1/jobs/{submit(client)['id']}"
    etag = client.get(path).headers["etag"]
    for header in (etag, f'"x", W/{etag}', "*"):
        response = client.get(path, headers={"If-None-Match": header})
        assert (response.status_code, response.content) == (304, b"")
    client.post(f"{path}/cancel")
    changed = client.get(path, headers={"If-None-Match": etag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag


def test_cancelling(client: TestClient, database: Database) -> None:
    queued, running = submit(client)["id"], submit(client)["id"]
    cancelled = client.post(f"/v1/jobs/{queued}/cancel").json()
    assert (cancelled["status"], cancelled["cancel_requested"]) == ("cancelled", True)
    assert {stage["status"] for stage in cancelled["stages"]} == {"skipped"}
    assert client.post(f"/v1/jobs/{queued}/cancel").status_code == 409
    with database.transaction() as session:
        assert claim_job(session, queued, "w", 30) is None
        assert claim_job(session, running, "w", 30)
    for _ in range(2):
        asked = client.post(f"/v1/jobs/{running}/cancel").json()
        assert (asked["status"], asked["cancel_requested"]) == ("running", True)
    events = client.get(f"/v1/jobs/{running}/events").json()["data"]
    types = [event["type"] for event in events]
    assert types == ["job.queued", "job.started", "job.cancel_requested"]


def test_too_many_open_jobs(settings: Settings, make_key: Callable[..., str]) -> None:
    tight = settings.model_copy(update={"max_open_jobs_per_key": 2})
    with TestClient(create_app(tight)) as client:
        client.headers["Authorization"] = f"Bearer {make_key()}"
        first = submit(client)
        submit(client)
        spec = build_spec(client)
        response = client.post("/v1/jobs", json=spec)
        assert response.status_code == 429
        assert response.json()["error"]["code"] == "too_many_open_jobs"
        client.post(f"/v1/jobs/{first['id']}/cancel")
        assert client.post("/v1/jobs", json=spec).status_code == 201


def test_files_of_a_job(client: TestClient, database: Database, settings: Settings) -> None:
    job_id = submit(client)["id"]
    path = f"/v1/jobs/{job_id}"
    assert client.get(f"{path}/report").json()["error"]["code"] == "not_ready"
    store = client.app.state.context.artifacts  # type: ignore[attr-defined]
    with database.transaction() as session:
        claim = claim_job(session, job_id, "w", 30)
        assert claim
        start_stage(session, job_id, claim.token, "prepare")
        for name, content, kind in (
            ("report.json", b"{}", "application/json"),
            ("report.html", b"<p>", "text/html"),
            ("patch.safetensors", b"\0\1", "application/octet-stream"),
        ):
            sha256 = store.put_bytes(content)
            attach_artifact(session, job_id, claim.token, name, sha256, len(content), kind)
        finish_job(session, job_id, claim.token, "succeeded", "passed")
    report = client.get(f"{path}/report")
    assert (report.content, report.headers["content-type"]) == (b"{}", "application/json")
    page = client.get(f"{path}/report?format=html")
    assert "sandbox" in page.headers["content-security-policy"]
    patch = client.get(f"{path}/patch")
    assert patch.content == b"\0\1"
    assert 'filename="patch.safetensors"' in patch.headers["content-disposition"]
    cached = client.get(f"{path}/patch", headers={"If-None-Match": patch.headers["etag"]})
    assert cached.status_code == 304
    assert client.get(f"{path}/artifacts/report.json").content == b"{}"
    for name in ("nothing", "..%2f..%2fetc%2fpasswd", "%00"):
        assert client.get(f"{path}/artifacts/{name}").status_code == 404
    listed = client.get(path).json()["artifacts"]
    assert [artifact["name"] for artifact in listed] == [
        "patch.safetensors",
        "report.html",
        "report.json",
    ]
    stored = Path(settings.artifacts) / listed[0]["sha256"][:2] / listed[0]["sha256"]
    stored.write_bytes(b"\0\2")
    assert client.get(f"{path}/patch").status_code == 500


def test_models_are_listed(client: TestClient, model_root: Path) -> None:
    (model_root / "broken").mkdir()
    (model_root / "broken" / "config.json").write_text("{}")
    data = client.get("/v1/models").json()["data"]
    assert [(entry["id"], entry["usable"]) for entry in data] == [("broken", False), ("tiny", True)]
    assert data[1]["architecture"] == "LlamaForCausalLM"


def test_patterns_are_tried_after_everything_that_costs_less(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Expression] = []
    monkeypatch.setattr(pattern_lines, "check_expression", tried.append)
    spec = build_spec(client)
    prompts = spec["behaviours"][0]["prompts"]
    pattern = {"name": "p", "kind": "phrase", "prompts": prompts, "pattern": "a{4000}"}
    spec["behaviours"] = [pattern]
    for wrong, param in (
        ({"model": "nosuchmodel"}, "model"),
        ({"reference": "ps_none"}, "reference"),
    ):
        answer = client.post("/v1/jobs", json=spec | wrong)
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)
    assert tried == []
    headers = {"Idempotency-Key": "once"}
    assert client.post("/v1/jobs", json=spec, headers=headers).status_code == 201
    assert client.post("/v1/jobs", json=spec, headers=headers).status_code == 200
    assert [own.pattern for own in tried] == ["a{4000}"]
