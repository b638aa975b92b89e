"""Requests that meet a deletion in progress: whoever is late is told so, and nothing fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import delete, select, text

from service.database import Database
from service.estimates import operations as estimates
from service.keys.repository import ensure_tenant
from service.models import ApiKey, PromptSet, Tenant, Webhook
from service.tenants import repository
from tests.integration.service.conftest import build_checkpoint, build_spec, upload
from tests.shapes import LLAMA_8B

GUARD_SECONDS = 30
WAITING = text(
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


@pytest.fixture
def client(app_client: TestClient, make_key: Callable[..., str]) -> TestClient:
    """A client with an admin's key, used before so that its next use writes nothing."""
    app_client.headers["Authorization"] = f"Bearer {make_key(scopes=('admin',))}"
    app_client.get("/v1/tenant")
    return app_client


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as opened:
        yield opened


def until_blocked(database: Database, requests: list[Future[httpx.Response]]) -> None:
    """Wait until each request waits for a lock, or is answered."""
    deadline = time.monotonic() + GUARD_SECONDS
    while time.monotonic() < deadline:
        with database.transaction() as session:
            waiting = session.execute(WAITING).scalar_one()
        if waiting + sum(request.done() for request in requests) >= len(requests):
            return
        time.sleep(0.02)
    raise AssertionError("the requests do not wait for a lock")


def list_audited(client: TestClient, action: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"/v1/audit?action={action}").json()["data"]
    return found


def test_a_ping_of_a_webhook_that_is_being_deleted(
    client: TestClient, database: Database, pool: ThreadPoolExecutor
) -> None:
    webhook_id = client.post("/v1/webhooks", json={"url": "https://1.1.1.1/x"}).json()["id"]
    with database.transaction() as session:
        session.execute(delete(Webhook).where(Webhook.id == webhook_id))
        asked = pool.submit(client.post, f"/v1/webhooks/{webhook_id}/ping")
        until_blocked(database, [asked])
    assert asked.result(GUARD_SECONDS).status_code == 404


def test_an_estimate_whose_prompt_set_is_being_deleted(
    client: TestClient, model_root: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_checkpoint(model_root / "large", **LLAMA_8B)
    spec = build_spec(client, model="large")
    check = estimates.check_prompt_sets

    def check_too_early(*given: Any) -> None:
        check(*given)
        prompts = spec["behaviours"][0]["prompts"]
        assert client.delete(f"/v1/prompt-sets/{prompts}").status_code == 204

    monkeypatch.setattr(estimates, "check_prompt_sets", check_too_early)
    answer = client.post("/v1/estimates", json={"spec": spec})
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "spec.behaviours[0].prompts"


def test_additions_to_a_tenant_that_is_being_deleted(
    client: TestClient, database: Database, pool: ThreadPoolExecutor
) -> None:
    tenant = client.get("/v1/tenant").json()
    text_plain = {"Content-Type": "text/plain"}
    prompt_set = upload(client, 4)
    with database.transaction() as session:
        repository.lock(session, tenant["id"])
        repository.delete_tenant(session, tenant["id"])
        asked = [
            pool.submit(client.post, "/v1/prompt-sets?name=a", content="b", headers=text_plain),
            pool.submit(client.post, "/v1/keys", json={"name": "k", "scopes": ["submit"]}),
            pool.submit(client.post, "/v1/webhooks", json={"url": "https://1.1.1.1/x"}),
            pool.submit(client.delete, f"/v1/prompt-sets/{prompt_set}"),
            pool.submit(client.delete, f"/v1/tenant?name={tenant['name']}"),
        ]
        until_blocked(database, asked)
    assert [own.result(GUARD_SECONDS).status_code for own in asked] == [401, 401, 401, 401, 404]


def test_a_tenant_that_is_being_deleted_is_made_anew_for_a_new_key(
    database: Database, pool: ThreadPoolExecutor
) -> None:
    def ensure() -> str:
        with database.transaction() as session:
            return ensure_tenant(session, "Phoenix")

    first = ensure()
    assert ensure() == first
    with database.transaction() as session:
        session.execute(delete(Tenant).where(Tenant.id == first))
        asked = pool.submit(ensure)
        until_blocked(database, [asked])  # type: ignore[list-item]
    assert asked.result(GUARD_SECONDS) != first


def test_of_parallel_deletions_of_a_prompt_set_one_deletes(
    client: TestClient, database: Database, pool: ThreadPoolExecutor
) -> None:
    prompt_set = upload(client, 4)
    with database.transaction() as session:
        tenant = select(PromptSet.tenant_id).where(PromptSet.id == prompt_set).scalar_subquery()
        session.execute(select(Tenant.id).where(Tenant.id == tenant).with_for_update())
        asked = [pool.submit(client.delete, f"/v1/prompt-sets/{prompt_set}") for _ in range(3)]
        until_blocked(database, asked)
    statuses = [own.result(GUARD_SECONDS).status_code for own in asked]
    assert sorted(statuses) == [204, 404, 404]
    assert len(list_audited(client, "prompt_set.delete")) == 1


def test_of_parallel_revocations_of_a_key_one_is_recorded(
    client: TestClient, database: Database, pool: ThreadPoolExecutor
) -> None:
    made = client.post("/v1/keys", json={"name": "k", "scopes": ["submit"]}).json()
    with database.transaction() as session:
        session.execute(select(ApiKey.id).where(ApiKey.id == made["id"]).with_for_update())
        asked = [pool.submit(client.delete, f"/v1/keys/{made['id']}") for _ in range(3)]
        until_blocked(database, asked)
    assert [own.result(GUARD_SECONDS).status_code for own in asked] == [200] * 3
    assert len(list_audited(client, "key.revoke")) == 1
