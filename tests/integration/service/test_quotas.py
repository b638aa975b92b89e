"""Tenants' quotas, and how tenants' things are deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from excise.resources.tenants import Quotas
from service.app import create_app
from service.artifacts import LocalArtifactStore
from service.commands.tenants import app as tenants_app
from service.database import Database
from service.jobs.execution import attach_artifact, claim_job, finish_job, finish_stage, start_stage
from service.models import Base, Job, Tenant
from service.settings import Settings
from tests.integration.service.conftest import build_spec, submit, upload

ADMIN = ("submit", "admin")


@contextmanager
def limited(settings: Settings, key: str, **quotas: int) -> Iterator[TestClient]:
    """Yield a client of a service whose tenants have these quotas."""
    changed = settings.model_copy(update={"quotas": Quotas(**quotas)})
    with TestClient(create_app(changed), raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {key}"
        yield client


def check_refusal(response: object, quota: str, remedy: str) -> None:
    """Check that the answer names the quota, the limit and the remedy."""
    assert response.status_code == 409  # type: ignore[attr-defined]
    body = response.json()  # type: ignore[attr-defined]
    assert body["error"]["code"] == "quota_exceeded"
    assert f"may have {getattr(QUOTAS, quota)} {quota}" in body["detail"]
    assert remedy in body["detail"]
    assert f"raise the quota {quota}" in body["detail"]


QUOTAS = Quotas(prompt_sets=2, prompt_set_bytes=300, jobs=2, open_jobs=1, job_bytes=9000, keys=2)


def upload_text(client: TestClient, name: str, content: str) -> object:
    headers = {"Content-Type": "text/plain"}
    return client.post(f"/v1/prompt-sets?name={name}", content=content, headers=headers)


def test_prompt_sets_are_limited_in_number_and_bytes(
    settings: Settings, make_key: Callable[..., str]
) -> None:
    with limited(settings, make_key(), prompt_sets=2, prompt_set_bytes=300) as client:
        first = upload_text(client, "a", "a" * 200)
        assert first.status_code == 201  # type: ignore[attr-defined]
        large = upload_text(client, "b", "b" * 200)
        check_refusal(large, "prompt_set_bytes", "DELETE /v1/prompt-sets/{id}")
        assert upload_text(client, "c", "c").status_code == 201  # type: ignore[attr-defined]
        check_refusal(upload_text(client, "d", "d"), "prompt_sets", "DELETE /v1/prompt-sets/{id}")
        same = upload_text(client, "a", "a" * 200)
        assert same.status_code == 200  # type: ignore[attr-defined]
        path = f"/v1/prompt-sets/{same.json()['id']}"  # type: ignore[attr-defined]
        assert (client.delete(path).status_code, client.delete(path).status_code) == (204, 404)
        assert upload_text(client, "d", "d").status_code == 201  # type: ignore[attr-defined]


def test_open_jobs_and_all_jobs_are_limited(
    settings: Settings, make_key: Callable[..., str], database: Database
) -> None:
    with limited(settings, make_key(), jobs=2, open_jobs=1, job_bytes=9000) as client:
        spec = build_spec(client)
        first = client.post("/v1/jobs", json=spec).json()["id"]
        check_refusal(client.post("/v1/jobs", json=spec), "open_jobs", "cancel one")
        client.post(f"/v1/jobs/{first}/cancel")
        second = client.post("/v1/jobs", json=spec).json()["id"]
        client.post(f"/v1/jobs/{second}/cancel")
        check_refusal(client.post("/v1/jobs", json=spec), "jobs", "DELETE /v1/jobs/{id}")
        assert client.delete(f"/v1/jobs/{first}").status_code == 204
        large = {f"key {index}": "x" * 512 for index in range(16)}
        response = client.post("/v1/jobs", json={**spec, "metadata": large})
        check_refusal(response, "job_bytes", "DELETE /v1/jobs/{id}/artifacts")
        assert client.post("/v1/jobs", json=spec).status_code == 201


def test_keys_are_limited(settings: Settings, make_key: Callable[..., str]) -> None:
    with limited(settings, make_key(scopes=ADMIN), keys=2) as client:
        body = {"name": "another", "scopes": ["submit"]}
        made = client.post("/v1/keys", json=body)
        assert made.status_code == 201
        client.delete(f"/v1/keys/{made.json()['id']}")  # which makes no room at first
        check_refusal(client.post("/v1/keys", json=body), "keys", "Revoke some")


def test_limits_are_per_tenant_and_may_be_changed(
    settings: Settings,
    make_key: Callable[..., str],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EXCISE_DATABASE_URL", database_url)
    with limited(settings, make_key("Richer"), prompt_sets=1) as client:
        assert upload_text(client, "a", "a").status_code == 201  # type: ignore[attr-defined]
        check_quota_command("Richer", "prompt_sets=2", "keys=7")
        assert upload_text(client, "b", "b").status_code == 201  # type: ignore[attr-defined]
        view = client.get("/v1/tenant").json()
        assert (view["name"], view["object"]) == ("Richer", "tenant")
        assert (view["quotas"]["prompt_sets"], view["quotas"]["keys"]) == (2, 7)
        assert (view["usage"]["prompt_sets"], view["usage"]["prompt_set_bytes"]) == (2, 2)
        check_quota_command("Richer", "prompt_sets=default")
        assert client.get("/v1/tenant").json()["quotas"]["prompt_sets"] == 1
        client.headers["Authorization"] = f"Bearer {make_key()}"
        assert upload_text(client, "a", "a").status_code == 201  # type: ignore[attr-defined]


def check_quota_command(*arguments: str) -> None:
    result = CliRunner().invoke(tenants_app, ["quota", *arguments])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("change", ["nothing=1", "keys=-1", "keys=many", "keys"])
def test_an_invalid_quota_is_rejected(change: str) -> None:
    result = CliRunner().invoke(tenants_app, ["quota", "default", change])
    assert result.exit_code == 1
    assert "quota" in str(result.exception) or "whole number" in str(result.exception)


def test_a_set_that_an_open_job_needs_is_kept(client: TestClient) -> None:
    spec = build_spec(client)
    job_id = client.post("/v1/jobs", json=spec).json()["id"]
    path = f"/v1/prompt-sets/{spec['reference']}"
    refused = client.delete(path)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    client.post(f"/v1/jobs/{job_id}/cancel")
    assert client.delete(path).status_code == 204
    again = client.post("/v1/jobs", json=spec)
    assert again.json()["error"]["param"] == "reference"


def test_another_tenants_things_cannot_be_deleted(
    client: TestClient, make_key: Callable[..., str]
) -> None:
    job_id, set_id = submit(client)["id"], upload(client, 8)
    client.post(f"/v1/jobs/{job_id}/cancel")
    mine = client.headers["Authorization"]
    client.headers["Authorization"] = f"Bearer {make_key()}"
    for path in (f"jobs/{job_id}", f"jobs/{job_id}/artifacts", f"prompt-sets/{set_id}"):
        assert client.delete(f"/v1/{path}").status_code == 404
    client.headers["Authorization"] = f"Bearer {make_key(scopes=('publish',))}"
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 403
    client.headers["Authorization"] = mine
    assert client.get(f"/v1/jobs/{job_id}").status_code == 200


def run_job(client: TestClient, database: Database, store: LocalArtifactStore, text: bytes) -> str:
    """Run a job that ends with a report of its own, a file that it shares, and a stage's result."""
    job_id = str(submit(client)["id"])
    with database.transaction() as session:
        claim = claim_job(session, job_id, "w", 30)
        assert claim
        start_stage(session, job_id, claim.token, "prepare")
        result = store.put_bytes(text + b" prepared")
        finish_stage(session, job_id, claim.token, "prepare", "key", result, False)
        for name, content in (("report.json", text), ("shared.txt", b"shared")):
            sha256 = store.put_bytes(content)
            attach_artifact(
                session, job_id, claim.token, name, sha256, len(content), "application/json"
            )
        finish_job(session, job_id, claim.token, "rejected", "rejected")
    return job_id


def list_stored(settings: Settings) -> set[bytes]:
    return {path.read_bytes() for path in Path(settings.artifacts).rglob("*") if path.is_file()}


def test_a_jobs_files_are_deleted_except_what_others_need(
    client: TestClient, database: Database, settings: Settings
) -> None:
    store = LocalArtifactStore(Path(settings.artifacts))
    first, second = (run_job(client, database, store, text) for text in (b"one", b"two"))
    assert client.delete(f"/v1/jobs/{first}/artifacts").status_code == 204
    assert list_stored(settings) == {b"one prepared", b"two", b"two prepared", b"shared"}
    assert client.get(f"/v1/jobs/{first}").json()["artifacts"] == []
    assert "deleted" in client.get(f"/v1/jobs/{first}/report").json()["detail"]
    events = client.get(f"/v1/jobs/{first}/events").json()["data"]
    assert events[-1]["type"] == "job.files_deleted"
    assert client.delete(f"/v1/jobs/{first}/artifacts").status_code == 204

    assert client.delete(f"/v1/jobs/{first}").status_code == 204
    assert list_stored(settings) == {b"two", b"two prepared", b"shared"}
    assert client.get(f"/v1/jobs/{first}").status_code == 404
    assert client.delete(f"/v1/jobs/{second}").status_code == 204
    assert list_stored(settings) == set()


def test_an_open_job_is_not_deleted(client: TestClient) -> None:
    job_id = submit(client)["id"]
    for path in (f"/v1/jobs/{job_id}", f"/v1/jobs/{job_id}/artifacts"):
        refused = client.delete(path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
        assert "Cancel it" in refused.json()["detail"]


def test_a_tenant_is_deleted_with_everything(
    client: TestClient, database: Database, settings: Settings, make_key: Callable[..., str]
) -> None:
    store = LocalArtifactStore(Path(settings.artifacts))
    other = run_job(client, database, store, b"another tenant's")
    theirs = client.headers["Authorization"]
    client.headers["Authorization"] = f"Bearer {make_key('Leaving', ADMIN)}"
    run_job(client, database, store, b"mine")
    open_job = submit(client)["id"]
    assert client.delete("/v1/tenant?name=Staying").json()["error"]["code"] == "conflict"
    assert "Cancel them" in client.delete("/v1/tenant?name=Leaving").json()["detail"]
    client.post(f"/v1/jobs/{open_job}/cancel")
    with database.transaction() as session:
        tenant_id = session.query(Tenant.id).filter(Tenant.name == "Leaving").scalar()
    assert client.delete("/v1/tenant?name=Leaving").status_code == 204
    assert client.get("/v1/jobs").status_code == 401
    with database.transaction() as session:
        for table in Base.metadata.sorted_tables:
            if "tenant_id" in table.c and table.name != "audit_log":  # which is append-only
                rows = session.execute(table.select().where(table.c.tenant_id == tenant_id))
                assert rows.all() == [], table.name
        assert session.get(Tenant, tenant_id) is None
        assert session.get(Job, other) is not None
    assert list_stored(settings) == {b"another tenant's", b"another tenant's prepared", b"shared"}
    client.headers["Authorization"] = theirs
    assert client.get(f"/v1/jobs/{other}/report").content == b"another tenant's"


def test_only_an_admin_deletes_the_tenant(client: TestClient) -> None:
    name = client.get("/v1/tenant").json()["name"]
    assert client.delete(f"/v1/tenant?name={name}").status_code == 403


def test_a_hub_checkpoint_needs_the_operators_permission(
    settings: Settings, make_key: Callable[..., str]
) -> None:
    model = f"org/name@{'0' * 40}"
    for allowed, status in (((), 422), (("other",), 422), (("org", "other"), 201), (("*",), 201)):
        changed = settings.model_copy(update={"hub_organisations": allowed})
        with TestClient(create_app(changed)) as client:
            client.headers["Authorization"] = f"Bearer {make_key()}"
            response = client.post("/v1/jobs", json=build_spec(client, model=model))
            assert response.status_code == status
            if status == 422:
                assert response.json()["error"]["param"] == "model"
                assert "EXCISE_HUB_ORGANISATIONS" in response.json()["detail"]
