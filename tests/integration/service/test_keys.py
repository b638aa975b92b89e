"""API keys: stored as hashes, scoped, revocable, and confined to their tenant."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

from fastapi.testclient import TestClient
from sqlalchemy import text

from excise.redaction import redact
from service.database import Database
from tests.integration.service.conftest import submit, upload

MakeKey = Callable[..., str]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_only_the_hash_is_stored(database: Database, make_key: MakeKey) -> None:
    key = make_key()
    assert re.fullmatch(r"exc_[A-Za-z0-9_-]{43}", key)
    with database.transaction() as session:
        rows = session.execute(text("SELECT row_to_json(api_keys)::text FROM api_keys")).scalars()
        content = "\n".join(rows)
    assert key not in content
    assert hashlib.sha256(key.encode()).hexdigest() in content


def test_missing_wrong_and_malformed_keys_are_rejected(app_client: TestClient) -> None:
    wrong = "exc_" + "a" * 43
    for headers in ({}, bearer(wrong), bearer("nonsense"), {"Authorization": "Basic eDp5"}):
        response = app_client.get("/v1/jobs", headers=headers)
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "unauthorized"
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert wrong not in response.text


def test_scopes_are_enforced(app_client: TestClient, make_key: MakeKey) -> None:
    reader = bearer(make_key(scopes=("publish",)))
    assert app_client.get("/v1/jobs", headers=reader).status_code == 200
    response = app_client.post("/v1/prompt-sets?name=a", content=b"x", headers=reader)
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "forbidden"
    assert app_client.get("/v1/keys", headers=bearer(make_key())).status_code == 403


def test_admins_create_and_revoke_keys(app_client: TestClient, make_key: MakeKey) -> None:
    admin = bearer(make_key(scopes=("admin",)))
    request = {"name": "ci", "scopes": ["submit"]}
    made = app_client.post("/v1/keys", json=request, headers=admin)
    assert made.status_code == 201
    key = made.json()["key"]
    assert app_client.get("/v1/jobs", headers=bearer(key)).status_code == 200
    assert key not in app_client.get("/v1/keys", headers=admin).text
    revoked = app_client.delete(f"/v1/keys/{made.json()['id']}", headers=admin)
    assert revoked.json()["revoked_at"]
    assert app_client.get("/v1/jobs", headers=bearer(key)).status_code == 401


def test_another_tenants_rows_do_not_exist(
    app_client: TestClient, make_key: MakeKey, client: TestClient
) -> None:
    job = submit(client)
    prompt_set = upload(client, 4)
    stranger = bearer(make_key(scopes=("submit", "admin")))
    for method, path in (
        ("GET", f"/v1/jobs/{job['id']}"),
        ("POST", f"/v1/jobs/{job['id']}/cancel"),
        ("GET", f"/v1/jobs/{job['id']}/events"),
        ("GET", f"/v1/jobs/{job['id']}/events?stream=true"),
        ("GET", f"/v1/jobs/{job['id']}/report"),
        ("GET", f"/v1/jobs/{job['id']}/artifacts/report.json"),
        ("GET", f"/v1/prompt-sets/{prompt_set}"),
    ):
        assert app_client.request(method, path, headers=stranger).status_code == 404, path
    assert app_client.get("/v1/jobs", headers=stranger).json()["data"] == []
    assert app_client.get("/v1/prompt-sets", headers=stranger).json()["data"] == []
    spec = {**job["spec"], "metadata": {}}
    response = app_client.post("/v1/jobs", json=spec, headers=stranger)
    assert response.status_code == 422
    assert response.json()["error"]["param"] == "behaviours[0].prompts"


def test_the_last_use_is_recorded(app_client: TestClient, make_key: MakeKey) -> None:
    admin = bearer(make_key(scopes=("admin",)))
    app_client.get("/v1/keys", headers=admin)
    assert app_client.get("/v1/keys", headers=admin).json()["data"][0]["last_used_at"]


def test_logs_redact_keys_and_passwords() -> None:
    text = redact("exc_" + "a" * 43 + " postgresql://user:secret@host/db")
    assert text == "*** postgresql://***@host/db"
