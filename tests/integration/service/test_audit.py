"""The audit log over a real database: every change is in it, and nothing removes entries."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from typer.testing import CliRunner

from excise.cli.app import app as cli
from service.app import create_app
from service.audit.recording import record
from service.database import Database
from service.keys.operations import authenticate
from service.settings import Settings
from tests.integration.service.conftest import CALLER, submit, upload

AUDITED = {
    ("POST", "/v1/jobs"): "job.submit",
    ("POST", "/v1/jobs/{job_id}/cancel"): "job.cancel",
    ("POST", "/v1/prompt-sets"): "prompt_set.create",
    ("DELETE", "/v1/jobs/{job_id}"): "job.delete",
    ("DELETE", "/v1/jobs/{job_id}/artifacts"): "job.delete_files",
    ("DELETE", "/v1/prompt-sets/{prompt_set_id}"): "prompt_set.delete",
    ("DELETE", "/v1/tenant"): "tenant.delete",
    ("POST", "/v1/webhooks"): "webhook.create",
    ("PATCH", "/v1/webhooks/{webhook_id}"): "webhook.change",
    ("DELETE", "/v1/webhooks/{webhook_id}"): "webhook.delete",
    ("POST", "/v1/webhooks/{webhook_id}/rotate"): "webhook.rotate",
    ("POST", "/v1/keys"): "key.create",
    ("DELETE", "/v1/keys/{key_id}"): "key.revoke",
    ("POST", "/v1/models/{job_id}/publish"): "version.publish",
    ("POST", "/v1/versions/{version_id}/retire"): "version.retire",
    ("POST", "/v1/aliases/{alias}/promote"): "alias.promote",
    ("POST", "/v1/aliases/{alias}/rollback"): "alias.rollback",
    ("POST", "/v1/aliases/{alias}/split"): "alias.split",
}
"""Each call that changes something → the audit log's action for it."""
CHANGES_NOTHING = {
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/estimates"),
    ("POST", "/v1/webhooks/{webhook_id}/ping"),
    ("POST", "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/retry"),
}


@pytest.fixture
def admin(app_client: TestClient, make_key: Callable[..., str]) -> TestClient:
    app_client.headers["Authorization"] = f"Bearer {make_key(scopes=('submit', 'admin'))}"
    return app_client


def read(client: TestClient, **query: Any) -> list[dict[str, Any]]:
    answer = client.get("/v1/audit", params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def find_tenant(database: Database, client: TestClient) -> str:
    secret = client.headers["Authorization"].removeprefix("Bearer ")
    with database.transaction() as session:
        return authenticate(session, secret).tenant_id


def list_routes(app: FastAPI) -> set[tuple[str, str]]:
    """Return every call that may change something."""
    schema = app.openapi()["paths"]
    return {
        (method.upper(), path)
        for path, methods in schema.items()
        for method in methods
        if method in {"post", "put", "patch", "delete"}
    }


def test_every_call_that_changes_something_is_on_the_list(settings: Settings) -> None:
    """A new call must be added here, with its action, and to `Action`."""
    routes = list_routes(create_app(settings))
    assert routes == set(AUDITED) | CHANGES_NOTHING


def test_changes_are_recorded_with_actor_and_origin(admin: TestClient) -> None:
    headers = {"X-Request-ID": "request-44"}
    made = admin.post("/v1/keys", json={"name": "ci", "scopes": ["submit"]}, headers=headers)
    key_id = made.json()["id"]
    job = submit(admin)
    admin.post(f"/v1/jobs/{job['id']}/cancel")
    admin.delete(f"/v1/keys/{key_id}")
    admin.delete(f"/v1/keys/{key_id}")  # the second time, this changes nothing
    entries = read(admin)
    assert [entry["action"] for entry in entries] == [
        "key.create",  # the test's own key, made before any request
        "key.create",
        "prompt_set.create",
        "prompt_set.create",
        "job.submit",
        "job.cancel",
        "key.revoke",
    ]
    created = entries[1]
    assert created["target"] == key_id
    assert created["source"] == CALLER[0]
    assert created["request_id"] == "request-44"
    assert created["data"] == {"name": "ci", "scopes": ["submit"]}
    assert (entries[0]["actor"], entries[0]["source"]) == ("service", None)
    own_key = entries[0]["target"]
    assert {entry["actor"] for entry in entries[1:]} == {own_key}
    assert entries[4]["target"] == job["id"]
    assert made.json()["key"] not in json.dumps(entries)


def test_calls_without_effect_are_not_recorded(admin: TestClient) -> None:
    upload(admin, 8)
    before = len(read(admin))
    upload(admin, 8)  # the same set again
    admin.post("/v1/jobs", json={"kind": "correction"})
    assert len(read(admin)) == before


def test_a_rolled_back_change_is_not_recorded(admin: TestClient, database: Database) -> None:
    tenant = find_tenant(database, admin)

    def fail() -> None:
        with database.transaction() as session:
            record(session, tenant, "job.submit", "job_x")
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [entry["action"] for entry in read(admin)] == ["key.create"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET actor = 'somebody else'",
        "DELETE FROM audit_log",
        "DELETE FROM audit_log WHERE id = -1",
        "TRUNCATE audit_log",
    ],
)
def test_the_database_refuses_to_change_entries(
    admin: TestClient, database: Database, statement: str
) -> None:
    before = read(admin)
    with pytest.raises(DBAPIError, match="only grows"), database.transaction() as session:
        session.execute(text(statement))
    assert read(admin) == before


def test_only_admins_read_it_and_only_their_own_tenants(
    admin: TestClient, make_key: Callable[..., str]
) -> None:
    mine = read(admin)
    other = {"Authorization": f"Bearer {make_key(scopes=('submit', 'publish', 'infer'))}"}
    assert admin.get("/v1/audit", headers=other).status_code == 403
    stranger = {"Authorization": f"Bearer {make_key(scopes=('admin',))}"}
    theirs = admin.get("/v1/audit", headers=stranger).json()["data"]
    assert not {entry["id"] for entry in mine} & {entry["id"] for entry in theirs}


def test_each_page_continues_where_the_last_one_ended(admin: TestClient) -> None:
    for number in range(3):
        upload(admin, 8, f"set{number}")
    first = admin.get("/v1/audit", params={"limit": 3}).json()
    assert first["has_more"]
    second = admin.get("/v1/audit", params={"after": first["data"][-1]["id"]}).json()
    assert not second["has_more"]
    assert [entry["id"] for entry in first["data"] + second["data"]] == [
        entry["id"] for entry in read(admin)
    ]
    assert len(read(admin, action="prompt_set.create")) == 3
    assert admin.get("/v1/audit", params={"action": "job.destroy"}).status_code == 422


def test_a_reader_misses_no_uncommitted_change(admin: TestClient, database: Database) -> None:
    """A reader does not get past an entry with a small id that is committed late."""
    tenant = find_tenant(database, admin)
    with database.transaction() as session:
        record(session, tenant, "job.cancel", "job_slow")
        session.flush()
        answer = admin.get("/v1/audit")
        assert answer.status_code == 503  # rather than a page without it
    targets = [entry["target"] for entry in read(admin)]
    assert targets[-1] == "job_slow"


def test_the_command_line_exports_it_and_is_recorded(
    admin: TestClient, database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXCISE_DATABASE_URL", database_url)
    runner = CliRunner()
    assert runner.invoke(cli, ["keys", "create", "--tenant", "exported"]).exit_code == 0
    exported = runner.invoke(cli, ["audit", "--tenant", "exported"])
    assert exported.exit_code == 0, exported.output
    (entry,) = [json.loads(line) for line in exported.stdout.splitlines()]
    assert entry["action"] == "key.create"
    assert entry["actor"].startswith("operator ")
    everything = [json.loads(line) for line in runner.invoke(cli, ["audit"]).stdout.splitlines()]
    assert len({line["tenant_id"] for line in everything}) > 1
    assert [line["id"] for line in everything] == sorted(line["id"] for line in everything)
    later = runner.invoke(cli, ["audit", "--after", str(everything[-2]["id"])])
    assert [json.loads(line)["id"] for line in later.stdout.splitlines()] == [everything[-1]["id"]]
    unknown = runner.invoke(cli, ["audit", "--tenant", "nobody"])
    assert unknown.exit_code == 1


def test_no_entry_names_a_secret(admin: TestClient, database: Database) -> None:
    tenant = find_tenant(database, admin)
    with database.transaction() as session:
        record(session, tenant, "alias.promote", "a@b", {"reason": f"with exc_{'k' * 43}"})
    assert "kkkk" not in json.dumps(read(admin))
