"""What all routes have in common: numbers in queries are digits, and secrets are not stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient


@pytest.fixture
def client(app_client: TestClient, make_key: Callable[..., str]) -> TestClient:
    app_client.headers["Authorization"] = f"Bearer {make_key(scopes=('admin',))}"
    return app_client


def list_numbers(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Every path and integer that may be in its query."""
    for path, operations in app.openapi()["paths"].items():
        for parameter in operations.get("get", {}).get("parameters", []):
            if parameter["in"] == "query" and parameter["schema"].get("type") == "integer":
                yield path, parameter["name"]


def test_every_number_in_a_query_is_written_in_digits(client: TestClient) -> None:
    app = client.app
    assert isinstance(app, FastAPI)
    found = list(list_numbers(app))
    assert len(found) > 10
    for path, name in found:
        for wrong in ("1_0", " 1 ", "+5", "1.0"):
            answer = client.get(path.replace("{", "").replace("}", ""), params={name: wrong})
            assert (answer.status_code, answer.json()["error"]["param"]) == (422, name), path


def test_answers_with_a_secret_are_not_stored(client: TestClient) -> None:
    key = client.post("/v1/keys", json={"name": "k", "scopes": ["submit"]})
    webhook = client.post("/v1/webhooks", json={"url": "https://1.1.1.1/x"})
    rotated = client.post(f"/v1/webhooks/{webhook.json()['id']}/rotate")
    assert "key" in key.json()
    assert "secret" in webhook.json()
    assert "secret" in rotated.json()
    for answer in (key, webhook, rotated):
        assert answer.headers["Cache-Control"] == "no-store"
    assert client.get("/v1/keys").headers["Cache-Control"] == "private, no-cache"


def test_no_query_may_give_a_parameter_twice(client: TestClient) -> None:
    for path in ("/v1/jobs", "/v1/audit", "/v1/versions"):
        answer = client.get(path, params=[("limit", "1"), ("limit", "2")])
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, "limit")
    assert client.get("/v1/jobs?limit=1&limit=2", headers={"Authorization": ""}).status_code == 401


def test_a_body_that_is_not_marked_as_json_is_told_so(client: TestClient) -> None:
    """What curl and others send with `-d` unless they are told the type."""
    app = client.app
    assert isinstance(app, FastAPI)
    for path, operations in app.openapi()["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {})
            if list(content) != ["application/json"]:
                continue
            for media_type in ("application/x-www-form-urlencoded", "text/plain", "text/json"):
                answer = client.request(
                    method,
                    path.replace("{", "").replace("}", ""),
                    content=b'{"model": "tiny"}',
                    headers={"Content-Type": media_type},
                )
                assert answer.json()["error"]["param"] == "Content-Type", (path, answer.text)
                assert "Send Content-Type: application/json" in answer.json()["detail"]
