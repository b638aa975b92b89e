"""Webhooks over a real database and a receiver on this machine: messages, retries, log, rights."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from excise.names import JobStatus, Verdict, WebhookEvent
from excise.outgoing.endpoints import Destination, Endpoint
from service.app import create_app
from service.database import Database
from service.jobs.transitions import finish
from service.models import Job
from service.settings import Settings
from service.webhooks import operations, sending
from service.webhooks.deliverer import TENANT_SLOTS, Deliverer
from service.webhooks.operations import MAX_WEBHOOKS
from tests.integration.service.conftest import submit
from tests.unit.excise.outgoing.servers import Reply, Request, Server, serve

MakeKey = Callable[..., str]


class Receiver:
    """A receiver that answers as configured, by default with 204."""

    def __init__(self, server: Server, statuses: list[int]) -> None:
        self.server = server
        self.statuses = statuses

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}/hook"

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(request.body) for request in self.server.requests]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    statuses: list[int] = []
    with serve(lambda request: Reply(b"", statuses.pop(0) if statuses else 204)) as server:
        yield Receiver(server, statuses)


@pytest.fixture
def settings(settings: Settings, receiver: Receiver, database: Database) -> Settings:
    with database.transaction() as session:
        session.execute(text("DELETE FROM webhooks"))
    allowed = (f"127.0.0.1:{receiver.server.port}",)
    return settings.model_copy(update={"webhook_hosts": allowed, "webhook_retry_seconds": (0.001,)})


@pytest.fixture
def client(app_client: TestClient, make_key: MakeKey) -> TestClient:
    app_client.headers["Authorization"] = f"Bearer {make_key(scopes=('admin',))}"
    return app_client


@pytest.fixture
def deliverer(database: Database, settings: Settings) -> Deliverer:
    return Deliverer(database, settings)


def create(client: TestClient, receiver: Receiver, *events: str) -> dict[str, Any]:
    body: dict[str, Any] = {"url": receiver.url}
    if events:
        body["events"] = list(events)
    response = client.post("/v1/webhooks", json=body)
    assert response.status_code == 201, response.text
    assert response.headers["Location"] == f"/v1/webhooks/{response.json()['id']}"
    made: dict[str, Any] = response.json()
    return made


def deliver_all(deliverer: Deliverer) -> int:
    count = 0
    while sent := deliverer.deliver_once():
        count += sent
    return count


def list_deliveries(client: TestClient, webhook: dict[str, Any]) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = client.get(f"/v1/webhooks/{webhook['id']}/deliveries").json()[
        "data"
    ]
    return data


def is_signed(request: Request, secret: str) -> bool:
    """Verify the signature as a receiver would, following the specification."""
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}."
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, signed.encode() + request.body, hashlib.sha256).digest()
    wanted = f"v1,{base64.b64encode(digest).decode()}"
    return wanted in request.headers["webhook-signature"].split(" ")


def test_a_job_is_reported_from_submission_to_end(
    client: TestClient, receiver: Receiver, deliverer: Deliverer, database: Database
) -> None:
    webhook = create(client, receiver)
    job = submit(client, metadata={"commit": "abc"})
    with database.transaction() as session:
        row = session.get_one(Job, job["id"], with_for_update=True)
        finish(session, row, JobStatus.REJECTED, "It did not pass.", verdict=Verdict.REJECTED)
    assert deliver_all(deliverer) == 2
    assert [message["type"] for message in receiver.messages] == ["job.queued", "job.rejected"]
    data = receiver.messages[-1]["data"]
    assert (data["job"], data["status"], data["verdict"]) == (job["id"], "rejected", "rejected")
    assert data["metadata"] == {"commit": "abc"}
    assert all(is_signed(request, webhook["secret"]) for request in receiver.server.requests)
    found = list_deliveries(client, webhook)
    assert [one["type"] for one in found] == ["job.rejected", "job.queued"]
    assert {one["status"] for one in found} == {"delivered"}
    assert found[0]["attempts"][0]["status_code"] == 204
    assert deliverer.deliver_once() == 0


def test_messages_carry_the_databases_time(
    client: TestClient,
    receiver: Receiver,
    deliverer: Deliverer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Receivers refuse what seems minutes old, and the clock of one machine may be wrong."""
    rightly = time.time()
    monkeypatch.setattr(time, "time", lambda: rightly + 3600)
    create(client, receiver)
    submit(client)
    assert deliver_all(deliverer) == 1
    (request,) = receiver.server.requests
    assert abs(int(request.headers["webhook-timestamp"]) - rightly) < 600


def test_a_webhook_gets_only_the_events_it_asked_for(
    client: TestClient, receiver: Receiver, deliverer: Deliverer
) -> None:
    create(client, receiver, "job.succeeded")
    submit(client)
    assert deliver_all(deliverer) == 0


def test_rolled_back_changes_are_not_reported(
    client: TestClient, receiver: Receiver, deliverer: Deliverer, database: Database
) -> None:
    create(client, receiver, "job.cancelled")
    job = submit(client)
    with suppress(ZeroDivisionError), database.transaction() as session:
        row = session.get_one(Job, job["id"], with_for_update=True)
        finish(session, row, JobStatus.CANCELLED, "It was cancelled.")
        session.flush()
        raise ZeroDivisionError
    assert deliver_all(deliverer) == 0


def test_a_webhook_deleted_meanwhile_stops_no_job(
    client: TestClient, receiver: Receiver, database: Database
) -> None:
    """A job that announces its end keeps the webhook until its transaction is over."""
    webhook = create(client, receiver)
    job = submit(client)
    with database.transaction() as session:
        row = session.get_one(Job, job["id"], with_for_update=True)
        finish(session, row, JobStatus.CANCELLED, "It was cancelled.")
        session.flush()
        with database.transaction() as other:
            other.execute(text("SET lock_timeout = '100ms'"))
            with pytest.raises(OperationalError, match="lock timeout"):
                other.execute(text("DELETE FROM webhooks"))
            other.rollback()
    assert client.delete(f"/v1/webhooks/{webhook['id']}").status_code == 204
    assert client.get(f"/v1/jobs/{job['id']}").json()["status"] == "cancelled"


def test_jobs_work_before_the_database_is_migrated(
    client: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = text("SELECT to_regclass('no_such_table')::text")
    monkeypatch.setattr("service.webhooks.messages._HAS_WEBHOOKS", missing)
    monkeypatch.setattr("service.webhooks.messages.Webhook", None)
    assert submit(client)["status"] == "queued"


def test_tenants_get_no_events_of_each_other(
    client: TestClient, receiver: Receiver, deliverer: Deliverer, make_key: MakeKey
) -> None:
    webhook = create(client, receiver)
    mine = client.headers["Authorization"]
    client.headers["Authorization"] = f"Bearer {make_key(scopes=('admin',))}"
    submit(client)
    assert deliver_all(deliverer) == 0
    path = f"/v1/webhooks/{webhook['id']}"
    assert client.get("/v1/webhooks").json()["data"] == []
    for answer in (
        client.get(path),
        client.patch(path, json={"status": "disabled"}),
        client.delete(path),
        client.post(f"{path}/rotate"),
        client.post(f"{path}/ping"),
        client.get(f"{path}/deliveries"),
        client.post(f"{path}/deliveries/dlv_{'0' * 24}/retry"),
    ):
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
    client.headers["Authorization"] = mine
    assert client.get(path).json()["status"] == "enabled"


def test_only_admins_manage_webhooks(
    app_client: TestClient, receiver: Receiver, make_key: MakeKey
) -> None:
    app_client.headers["Authorization"] = f"Bearer {make_key()}"
    assert app_client.get("/v1/webhooks").status_code == 403
    assert app_client.post("/v1/webhooks", json={"url": receiver.url}).status_code == 403


def test_a_failure_is_retried_with_the_same_id_and_logged(
    client: TestClient, receiver: Receiver, deliverer: Deliverer
) -> None:
    webhook = create(client, receiver, "job.queued")
    receiver.statuses += [500, 302]
    submit(client)
    while len(receiver.server.requests) < 3:
        deliverer.deliver_once()
    (delivery,) = list_deliveries(client, webhook)
    assert delivery["status"] == "delivered"
    assert [attempt["status_code"] for attempt in delivery["attempts"]] == [500, 302, 204]
    assert "redirect" in delivery["attempts"][1]["error"]
    ids = {request.headers["webhook-id"] for request in receiver.server.requests}
    assert ids == {delivery["event"]}
    assert client.get(f"/v1/webhooks/{webhook['id']}").json()["failing_since"] is None


def test_the_next_attempt_waits_for_its_time(
    client: TestClient, receiver: Receiver, database: Database, settings: Settings
) -> None:
    patient = settings.model_copy(update={"webhook_retry_seconds": (3600.0,)})
    webhook = create(client, receiver, "job.queued")
    receiver.statuses.append(500)
    submit(client)
    assert deliver_all(Deliverer(database, patient)) == 1
    (delivery,) = list_deliveries(client, webhook)
    assert delivery["status"] == "pending"
    assert delivery["next_attempt_at"] > delivery["attempts"][0]["at"]
    retried = client.post(f"/v1/webhooks/{webhook['id']}/deliveries/{delivery['id']}/retry")
    assert retried.status_code == 202
    assert deliver_all(Deliverer(database, patient)) == 1
    assert list_deliveries(client, webhook)[0]["status"] == "delivered"


def test_after_the_last_attempt_the_delivery_has_failed(
    client: TestClient, receiver: Receiver, deliverer: Deliverer, database: Database
) -> None:
    webhook = create(client, receiver, "job.queued")
    receiver.statuses += [500] * 99
    submit(client)
    while list_deliveries(client, webhook)[0]["status"] == "pending":
        deliverer.deliver_once()
    assert len(list_deliveries(client, webhook)[0]["attempts"]) == 10
    assert client.get(f"/v1/webhooks/{webhook['id']}").json()["failing_since"]


def test_a_webhook_that_fails_for_too_long_is_disabled_and_the_others_told(
    client: TestClient,
    receiver: Receiver,
    database: Database,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hasty = Deliverer(database, settings.model_copy(update={"webhook_give_up_seconds": 1e-6}))
    failing = create(client, receiver, "job.queued")
    other = create(client, receiver, "webhook.disabled")
    receiver.statuses += [500, 500]
    submit(client)
    while client.get(f"/v1/webhooks/{failing['id']}").json()["status"] == "enabled":
        hasty.deliver_once()
    shown = client.get(f"/v1/webhooks/{failing['id']}").json()
    assert "answered 500" in shown["status_reason"]
    assert list_deliveries(client, failing)[0]["status"] == "failed"
    assert deliver_all(hasty) <= 1
    told = receiver.messages[-1]
    assert (told["type"], told["data"]["webhook"]) == ("webhook.disabled", failing["id"])
    assert list_deliveries(client, other)[0]["type"] == "webhook.disabled"
    assert f"webhook {failing['id']} was disabled" in caplog.text
    submit(client)
    assert deliver_all(hasty) == 0
    assert client.post(f"/v1/webhooks/{failing['id']}/ping").status_code == 409
    enabled = client.patch(f"/v1/webhooks/{failing['id']}", json={"status": "enabled"}).json()
    assert (enabled["status"], enabled["status_reason"]) == ("enabled", None)
    submit(client)
    assert deliver_all(hasty) == 1


def test_a_webhook_without_receiver_is_disabled_at_once(
    client: TestClient, receiver: Receiver, deliverer: Deliverer
) -> None:
    webhook = create(client, receiver, "job.queued")
    receiver.statuses.append(410)
    submit(client)
    assert deliver_all(deliverer) == 1
    shown = client.get(f"/v1/webhooks/{webhook['id']}").json()
    assert shown["status"] == "disabled"
    assert "410" in shown["status_reason"]


def test_failures_count_for_the_address_at_which_they_happened(
    client: TestClient, receiver: Receiver, deliverer: Deliverer, settings: Settings
) -> None:
    """The owner corrects the address while the old one is failing, and answers 410 at last."""
    webhook = create(client, receiver)
    path = f"/v1/webhooks/{webhook['id']}"

    def move(name: str) -> dict[str, Any]:
        shown: dict[str, Any] = client.patch(path, json={"url": receiver.url + name}).json()
        return shown

    receiver.statuses.append(500)
    client.post(f"{path}/ping")
    deliverer.deliver_once()
    assert client.get(path).json()["failing_since"]
    assert move("")["failing_since"], "it is the same address"
    assert move("/new")["failing_since"] is None

    def answer_late(request: Request) -> Reply:
        move("/newest")
        return Reply(b"", 410)

    with serve(answer_late) as late:
        allowed = (*settings.webhook_hosts, f"127.0.0.1:{late.port}")
        changed = settings.model_copy(update={"webhook_hosts": allowed})
        old = f"http://127.0.0.1:{late.port}/hook"
        with deliverer._database.transaction() as session:
            session.execute(text("UPDATE webhooks SET url = :url"), {"url": old})
        assert Deliverer(deliverer._database, changed).deliver_once() == 1
    shown = client.get(path).json()
    assert (shown["url"], shown["status"]) == (f"{receiver.url}/newest", "enabled")
    assert shown["failing_since"] is None
    assert [one["status_code"] for one in list_deliveries(client, webhook)[0]["attempts"]] == [
        500,
        410,
    ]
    assert deliver_all(deliverer) == 1
    assert list_deliveries(client, webhook)[0]["status"] == "delivered"


def test_a_rotation_leaves_no_gap(
    client: TestClient, receiver: Receiver, deliverer: Deliverer, database: Database
) -> None:
    webhook = create(client, receiver)
    rotated = client.post(f"/v1/webhooks/{webhook['id']}/rotate").json()
    assert rotated["secret"] != webhook["secret"]
    assert rotated["previous_secret_until"]
    client.post(f"/v1/webhooks/{webhook['id']}/ping")
    deliver_all(deliverer)
    first = receiver.server.requests[-1]
    assert is_signed(first, rotated["secret"])
    assert is_signed(first, webhook["secret"])
    with database.transaction() as session:
        session.execute(text("UPDATE webhooks SET previous_secret_until = clock_timestamp()"))
    client.post(f"/v1/webhooks/{webhook['id']}/ping")
    deliver_all(deliverer)
    second = receiver.server.requests[-1]
    assert is_signed(second, rotated["secret"])
    assert not is_signed(second, webhook["secret"])


def test_a_secret_is_shown_once_and_reaches_no_log(
    client: TestClient,
    receiver: Receiver,
    deliverer: Deliverer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    webhook = create(client, receiver)
    receiver.statuses.append(500)
    client.post(f"/v1/webhooks/{webhook['id']}/ping")
    deliver_all(deliverer)
    for path in ("", f"/{webhook['id']}", f"/{webhook['id']}/deliveries"):
        assert "whsec_" not in client.get(f"/v1/webhooks{path}").text
    assert webhook["secret"] not in caplog.text
    assert all(webhook["secret"].encode() not in one.body for one in receiver.server.requests)


@pytest.mark.parametrize(
    "body",
    [
        {"url": "http://127.0.0.1:9/"},
        {"url": "https://127.0.0.1/"},
        {"url": "https://169.254.169.254/"},
        {"url": "https://localhost/"},
        {"url": "ftp://example.com/"},
        {"url": "https://user:secret@93.184.216.34/"},
        {"url": "https://93.184.216.34/?token=1"},
        {"url": "https://93.184.216.34/", "events": []},
        {"url": "https://93.184.216.34/", "events": ["job.queued", "job.queued"]},
        {"url": "https://93.184.216.34/", "events": ["job.unknown"]},
        {"url": "https://93.184.216.34/", "other": 1},
        {"url": "https://93.184.216.34/", "description": "x" * 201},
        {},
    ],
)
def test_forbidden_addresses_are_rejected(client: TestClient, body: dict[str, Any]) -> None:
    response = client.post("/v1/webhooks", json=body)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert "secret@" not in response.text
    assert client.get("/v1/webhooks").json()["data"] == []


def test_an_address_that_turns_private_is_not_connected_to(
    client: TestClient, receiver: Receiver, database: Database, settings: Settings
) -> None:
    webhook = create(client, receiver, "job.queued")
    submit(client)
    strict = Deliverer(database, settings.model_copy(update={"webhook_hosts": ()}))
    assert strict.deliver_once() == 1
    assert receiver.server.requests == []
    attempt = list_deliveries(client, webhook)[0]["attempts"][0]
    assert attempt["status_code"] is None
    assert "http" in attempt["error"]


def test_a_webhook_can_be_changed_and_deleted(
    client: TestClient, receiver: Receiver, deliverer: Deliverer
) -> None:
    webhook = create(client, receiver)
    path = f"/v1/webhooks/{webhook['id']}"
    changed = client.patch(path, json={"events": ["job.failed"], "description": "chat"}).json()
    assert (changed["events"], changed["description"]) == (["job.failed"], "chat")
    assert changed["url"] == webhook["url"]
    assert client.patch(path, json={"url": "https://10.0.0.1/"}).status_code == 422
    client.post(f"{path}/ping")
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404
    assert deliverer.deliver_once() == 0


def test_what_changes_nothing_of_a_webhook_is_not_recorded(
    client: TestClient, receiver: Receiver, deliverer: Deliverer
) -> None:
    path = f"/v1/webhooks/{create(client, receiver)['id']}"

    def change(**fields: Any) -> list[list[str]]:
        assert client.patch(path, json=fields).status_code == 200
        entries = client.get("/v1/audit", params={"action": "webhook.change"}).json()["data"]
        return [entry["data"]["changed"] for entry in entries]

    assert change() == []
    same = client.get(path).json()
    assert change(url=same["url"], events=same["events"], status="enabled", description="") == []
    assert change(url=same["url"], description="x") == [["description"]]
    receiver.statuses.append(500)
    client.post(f"{path}/ping")
    deliverer.deliver_once()
    assert change(status="enabled") == [["description"], ["status"]], "failures are forgiven"
    assert client.get(path).json()["failing_since"] is None


def test_of_a_message_that_is_sent_for_ever_the_last_attempts_are_shown(
    client: TestClient,
    receiver: Receiver,
    deliverer: Deliverer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.webhooks.deliverer.KEPT_ATTEMPTS", 2)
    webhook = create(client, receiver)
    sent = client.post(f"/v1/webhooks/{webhook['id']}/ping").json()
    for status in (200, 201, 202):
        receiver.statuses.append(status)
        assert deliverer.deliver_once() == 1
        client.post(f"/v1/webhooks/{webhook['id']}/deliveries/{sent['id']}/retry")
    (shown,) = list_deliveries(client, webhook)
    assert [attempt["status_code"] for attempt in shown["attempts"]] == [201, 202]


def test_lists_are_paged(client: TestClient, receiver: Receiver, deliverer: Deliverer) -> None:
    made = [create(client, receiver)["id"] for _ in range(3)]
    first = client.get("/v1/webhooks?limit=2").json()
    assert [one["id"] for one in first["data"]] == made[:0:-1]
    assert first["has_more"]
    rest = client.get(f"/v1/webhooks?after={first['data'][-1]['id']}").json()
    assert [one["id"] for one in rest["data"]] == made[:1]
    assert client.get("/v1/webhooks?after=wh_x").status_code == 422
    assert client.get(f"/v1/webhooks?after=wh_{'0' * 24}").status_code == 404
    for _ in range(3):
        client.post(f"/v1/webhooks/{made[0]}/ping")
    page = client.get(f"/v1/webhooks/{made[0]}/deliveries?limit=2").json()
    after = page["data"][-1]["id"]
    rest = client.get(f"/v1/webhooks/{made[0]}/deliveries?after={after}").json()
    assert (len(page["data"]), page["has_more"], len(rest["data"])) == (2, True, 1)
    deliveries = f"/v1/webhooks/{made[0]}/deliveries"
    assert client.get(f"{deliveries}?after=dlv_x").status_code == 422
    assert client.get(f"{deliveries}?after=dlv_{'0' * 24}").status_code == 404


def test_webhooks_per_tenant_are_limited(client: TestClient, receiver: Receiver) -> None:
    for _ in range(MAX_WEBHOOKS):
        create(client, receiver)
    refused = client.post("/v1/webhooks", json={"url": receiver.url})
    assert refused.status_code == 409
    assert str(MAX_WEBHOOKS) in refused.json()["detail"]


def test_a_slow_receiver_gets_one_message_at_a_time(
    client: TestClient, receiver: Receiver, deliverer: Deliverer, database: Database
) -> None:
    create(client, receiver)
    submit(client)
    submit(client)
    other = Deliverer(database, deliverer._settings)
    posts = deliverer._claim({})
    assert len(posts) == 1
    assert other._claim({}) == []


def test_a_running_service_delivers_by_itself(
    settings: Settings, receiver: Receiver, make_key: MakeKey, broker: object
) -> None:
    running = settings.model_copy(update={"relay_enabled": True, "webhook_seconds": 0.05})
    with TestClient(create_app(running)) as client:
        client.headers["Authorization"] = f"Bearer {make_key(scopes=('admin',))}"
        webhook = create(client, receiver)
        client.post(f"/v1/webhooks/{webhook['id']}/ping")
        while not receiver.server.requests:
            client.get("/v1/webhooks")
    assert receiver.messages[0]["type"] == WebhookEvent.WEBHOOK_PING


def test_old_deliveries_are_deleted(
    client: TestClient, receiver: Receiver, deliverer: Deliverer, database: Database
) -> None:
    webhook = create(client, receiver)
    for _ in range(2):
        client.post(f"/v1/webhooks/{webhook['id']}/ping")
        deliver_all(deliverer)
    old = list_deliveries(client, webhook)[1]["id"]
    with database.transaction() as session:
        session.execute(
            text(
                "UPDATE webhook_deliveries SET ended_at = ended_at - interval '31 days'"
                " WHERE id = :id"
            ),
            {"id": old},
        )
    deliverer.tidy_once()
    assert len(list_deliveries(client, webhook)) == 1


def test_slow_names_of_a_tenant_hold_its_own_slots_alone(
    app_client: TestClient,
    make_key: MakeKey,
    receiver: Receiver,
    deliverer: Deliverer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A look-up goes on after its message was given up, and counts for as long."""
    is_open, asked = threading.Event(), []

    def resolve(endpoint: Endpoint, hosts: Collection[str]) -> Destination:
        asked.append(endpoint.host)
        if endpoint.host == "slow.test":
            assert is_open.wait(30)
        return Destination(endpoint, "127.0.0.1")

    monkeypatch.setattr(operations, "resolve_endpoint", lambda *_: None)
    monkeypatch.setattr(sending, "resolve_endpoint", resolve)
    monkeypatch.setattr(sending, "LOOKUP_SECONDS", 1.0)
    for count, url in ((TENANT_SLOTS + 2, "http://slow.test/"), (1, receiver.url)):
        app_client.headers["Authorization"] = f"Bearer {make_key(scopes=('admin',))}"
        for _ in range(count):
            made = app_client.post("/v1/webhooks", json={"url": url}).json()
            assert app_client.post(f"/v1/webhooks/{made['id']}/ping").status_code == 202
    try:
        assert deliverer.deliver_once() == TENANT_SLOTS + 1
        assert sorted(asked) == ["127.0.0.1", *["slow.test"] * TENANT_SLOTS]
        assert len(receiver.messages) == 1
        assert deliverer.deliver_once() == 0
    finally:
        is_open.set()
    deliverer._lookups.shutdown()
    assert not deliverer._busy
