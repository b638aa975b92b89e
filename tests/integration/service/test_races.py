"""Requests that meet a deletion in progress: whoever is late is told so, and nothing fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Table, delete, func, select, text, update

from excise.names import JobFile
from excise.resources.tenants import Quotas
from excise.specs import CorrectionSpec
from service.app import create_app
from service.database import Database
from service.errors import NotFoundError
from service.estimates import operations as estimates
from service.jobs import operations as jobs
from service.jobs.execution import attach_artifact, claim_job, finish_job, finish_stage, start_stage
from service.jobs.intermediates import discard_files
from service.keys.operations import authenticate
from service.keys.repository import ensure_tenant
from service.models import (
    ApiKey,
    Job,
    OutboxMessage,
    PromptSet,
    Tenant,
    Webhook,
    WebhookDelivery,
    new_id,
)
from service.outbox import delete_old_sent, enqueue
from service.serving.pools import ServingPool
from service.serving.reconciler import Reconciler
from service.settings import Settings
from service.tenants import operations as tenants
from service.tenants import repository
from service.webhooks import deliverer
from service.webhooks.deliverer import Deliverer
from service.webhooks.sending import GONE, Outcome
from tests.integration.service.conftest import build_checkpoint, build_spec, submit, upload
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
    with ThreadPoolExecutor(16) as opened:
        yield opened


def until_blocked(database: Database, requests: Sequence[Future[Any]]) -> None:
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
        repository.lock_for_deletion(session, tenant["id"])
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
        until_blocked(database, [asked])
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


@pytest.fixture
def publisher(settings: Settings, make_key: Callable[..., str]) -> Iterator[TestClient]:
    """An admin's client of a service that has a place for a version, and no reconciler."""
    pool = ServingPool(name="main", url="http://127.0.0.1:9", base_model="tiny")
    changes = {"serving_pools": (pool,), "reconciler_enabled": False, "request_threads": 16}
    app = create_app(settings.model_copy(update=changes))
    with TestClient(app, raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {make_key(scopes=('admin',))}"
        yield client


def run_job(client: TestClient, database: Database, **changes: Any) -> str:
    """Run a job that passes, with a patch and a stage's result."""
    job_id = str(submit(client, **changes)["id"])
    store = client.app.state.context.artifacts  # type: ignore[attr-defined]
    sha256 = store.put_bytes(job_id.encode())
    with database.transaction() as session:
        claim = claim_job(session, job_id, "w", 30)
        assert claim is not None
        start_stage(session, job_id, claim.token, "prepare")
        finish_stage(session, job_id, claim.token, "prepare", "key", sha256, False)
        attach_artifact(session, job_id, claim.token, JobFile.PATCH, sha256, 1, "x/y")
        finish_job(session, job_id, claim.token, "succeeded", "passed")
    return job_id


def delete_tenant_beside(
    client: TestClient,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    begin: Callable[[], list[Future[Any]]],
) -> list[Future[Any]]:
    """Delete the client's tenant; `begin` is called when only its jobs and less are left."""
    begun: list[Future[Any]] = []
    tables = repository._list_tables()

    def list_tables() -> Iterator[Table]:
        for table in tables:
            if table is Job.__table__:
                begun.extend(begin())
                until_blocked(database, begun)
            yield table

    monkeypatch.setattr(repository, "_list_tables", list_tables)
    name = client.get("/v1/tenant").json()["name"]
    assert client.delete(f"/v1/tenant?name={name}").status_code == 204
    return begun


def test_requests_that_lock_rows_of_a_tenant_that_is_being_deleted(
    publisher: TestClient,
    database: Database,
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = build_spec(publisher)
    ended = [run_job(publisher, database) for _ in range(3)]
    version_id = "mv_" + "0" * 24
    requests: list[tuple[str, str, object]] = [
        ("POST", "jobs", spec),
        ("DELETE", f"jobs/{ended[0]}", None),
        ("DELETE", f"jobs/{ended[1]}/artifacts", None),
        ("POST", f"models/{ended[2]}/publish", {"alias": "a@b"}),
        ("POST", f"versions/{version_id}/retire", None),
        ("POST", "aliases/a@b/promote", {"version": version_id}),
        ("POST", "aliases/a@b/rollback", None),
        ("POST", "aliases/a@b/split", {"percent": 0}),
    ]

    def ask(method: str, path: str, body: object) -> int:
        return publisher.request(method, f"/v1/{path}", json=body).status_code

    def begin() -> list[Future[int]]:
        return [pool.submit(ask, *request) for request in requests]

    asked = delete_tenant_beside(publisher, database, monkeypatch, begin)
    assert [own.result(GUARD_SECONDS) for own in asked] == [401] * len(requests)


def test_a_job_that_is_to_be_published_while_its_tenant_is_being_deleted(
    publisher: TestClient,
    database: Database,
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_job(publisher, database, publish={"alias": "a@b"})
    context = publisher.app.state.context  # type: ignore[attr-defined]
    reconciler = Reconciler(database, context.artifacts, context.settings, lambda: None)
    begun = delete_tenant_beside(
        publisher, database, monkeypatch, lambda: [pool.submit(reconciler.publish_once)]
    )
    begun[0].result(GUARD_SECONDS)


def test_a_webhook_whose_receiver_is_gone_while_its_tenant_is_being_deleted(
    client: TestClient,
    database: Database,
    settings: Settings,
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deliverer, "send", answer_gone)
    urls = [{"url": "https://1.1.1.1/x"}] * 2
    gone, other = (client.post("/v1/webhooks", json=body).json()["id"] for body in urls)
    client.post(f"/v1/webhooks/{gone}/ping")
    with database.transaction() as session:
        repository.lock_for_deletion(session, client.get("/v1/tenant").json()["id"])
        session.execute(delete(Webhook).where(Webhook.id == other))
        begun = [pool.submit(Deliverer(database, settings).deliver_once)]
        until_blocked(database, begun)
        session.execute(delete(Webhook).where(Webhook.id == gone))
    assert begun[0].result(GUARD_SECONDS) == 1


async def answer_gone(*_: object, **__: object) -> Outcome:
    return Outcome(GONE, "gone", 1)


@pytest.mark.parametrize("pattern", [None, "a+"])
def test_a_repetition_that_meets_the_first_request_counts_against_no_limit(
    settings: Settings,
    database: Database,
    make_key: Callable[..., str],
    pool: ThreadPoolExecutor,
    pattern: str | None,
) -> None:
    """The first comes by another API key of the tenant, and takes the only open job."""
    tenant = new_id("tenant")
    tight = settings.model_copy(update={"quotas": Quotas(open_jobs=1)})
    with TestClient(create_app(tight), raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {make_key(tenant)}"
        spec = build_spec(client)
        if pattern is not None:
            prompts = spec["behaviours"][0]["prompts"]
            phrase = {"name": "p", "kind": "phrase", "prompts": prompts, "pattern": pattern}
            spec["behaviours"] = [phrase]
        headers = {"Idempotency-Key": "once"}
        with database.transaction() as session:
            first = authenticate(session, make_key(tenant))
            repository.lock(session, first.tenant_id)
            asked = pool.submit(client.post, "/v1/jobs", json=spec, headers=headers)
            until_blocked(database, [asked])
            job, _ = jobs.submit_job(
                session, first, CorrectionSpec.model_validate(spec), tight, "once"
            )
        answer = asked.result(GUARD_SECONDS)
        assert (answer.status_code, answer.json().get("id")) == (200, job.id)


def test_of_parallel_deletions_of_a_jobs_files_one_is_recorded(
    publisher: TestClient,
    database: Database,
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second comes after the first has begun, and before its files are gone."""
    job_id = run_job(publisher, database)
    both_have_begun = Barrier(2, timeout=GUARD_SECONDS)

    def discard_together(*given: Any) -> None:
        both_have_begun.wait()
        discard_files(*given)

    monkeypatch.setattr(jobs, "discard_files", discard_together)
    path = f"/v1/jobs/{job_id}/artifacts"
    asked = [pool.submit(publisher.delete, path) for _ in range(2)]
    assert [own.result(GUARD_SECONDS).status_code for own in asked] == [204] * 2
    assert len(list_audited(publisher, "job.delete_files")) == 1
    events = publisher.get(f"/v1/jobs/{job_id}/events").json()["data"]
    assert [event["type"] for event in events].count("job.files_deleted") == 1


def test_quotas_that_are_set_while_others_are(
    client: TestClient, database: Database, pool: ThreadPoolExecutor
) -> None:
    tenant_id = client.get("/v1/tenant").json()["id"]

    def set_quota(name: str) -> None:
        with database.transaction() as session:
            tenants.set_quotas(session, tenant_id, {name: 7})

    with database.transaction() as session:
        tenants.set_quotas(session, tenant_id, {"keys": 7})
        begun = pool.submit(set_quota, "jobs")
        until_blocked(database, [begun])
    begun.result(GUARD_SECONDS)
    quotas = client.get("/v1/tenant").json()["quotas"]
    assert (quotas["keys"], quotas["jobs"]) == (7, 7)


def test_quotas_of_a_tenant_that_is_being_deleted(
    client: TestClient, database: Database, pool: ThreadPoolExecutor
) -> None:
    tenant_id = client.get("/v1/tenant").json()["id"]

    def set_quota() -> None:
        with database.transaction() as session:
            tenants.set_quotas(session, tenant_id, {"keys": 7})

    with database.transaction() as session:
        repository.lock_for_deletion(session, tenant_id)
        repository.delete_tenant(session, tenant_id)
        begun = pool.submit(set_quota)
        until_blocked(database, [begun])
    with pytest.raises(NotFoundError):
        begun.result(GUARD_SECONDS)


def test_tidying_up_waits_for_no_deletion(
    client: TestClient, database: Database, settings: Settings, pool: ThreadPoolExecutor
) -> None:
    """It meets a deletion that has some of the rows, and would wait for others of them."""
    webhook_id = client.post("/v1/webhooks", json={"url": "https://1.1.1.1/x"}).json()["id"]
    job_id = submit(client)["id"]
    for _ in range(2):
        client.post(f"/v1/webhooks/{webhook_id}/ping")
    long_ago = func.now() - timedelta(days=60)
    with database.transaction() as session:
        enqueue(session, job_id)
        session.execute(update(OutboxMessage).values(sent_at=long_ago))
        ended = {"status": "failed", "next_attempt_at": None, "ended_at": long_ago}
        session.execute(update(WebhookDelivery).values(ended))
    with database.transaction() as session:
        tables: list[type[Any]] = [OutboxMessage, WebhookDelivery]
        for table in tables:
            session.execute(select(table.id).limit(1).with_for_update())
        pool.submit(tidy, database, settings).result(GUARD_SECONDS)
        for table in tables:
            assert session.scalar(select(func.count(table.id))) == 1


def tidy(database: Database, settings: Settings) -> None:
    with database.transaction() as session:
        delete_old_sent(session)
    Deliverer(database, settings).tidy_once()


def test_a_list_of_deliveries_waits_for_none_of_them(
    client: TestClient, database: Database, pool: ThreadPoolExecutor
) -> None:
    webhook_id = client.post("/v1/webhooks", json={"url": "https://1.1.1.1/x"}).json()["id"]
    first, last = (client.post(f"/v1/webhooks/{webhook_id}/ping").json()["id"] for _ in range(2))
    with database.transaction() as session:
        of_last = select(WebhookDelivery.id).where(WebhookDelivery.id == last)
        session.execute(of_last.with_for_update())
        path = f"/v1/webhooks/{webhook_id}/deliveries?after={last}"
        answer = pool.submit(client.get, path).result(GUARD_SECONDS)
    assert [delivery["id"] for delivery in answer.json()["data"]] == [first]
