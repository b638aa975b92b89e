"""The outbox and the broker: nothing is lost, whatever fails in between."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from kombu import Connection
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import text

from service.app import create_app
from service.broker import EPOCH_KEY, Broker
from service.database import Database
from service.jobs.execution import claim_job, heartbeat_worker
from service.jobs.leases import JOBS
from service.outbox import count_unsent, resend, send_unsent
from service.relay import Relay
from service.settings import Settings
from tests.integration.service.conftest import clear_jobs, submit


@pytest.fixture
def relay(database: Database, settings: Settings, broker: Redis) -> Iterator[Relay]:
    """A relay that runs only when called, over an emptied broker and without open jobs."""
    clear_jobs(database)
    sender = Broker(settings.broker_url.get_secret_value())
    yield Relay(database, sender, settings)
    sender.close()


def queued_ids(broker: Redis) -> list[str]:
    """Return the job ids in the workers' queue, as a worker would read them."""
    ids = []
    for raw in broker.lrange("celery", 0, -1):
        message = json.loads(raw)
        assert message["headers"]["task"] == "excise.run_job"
        assert message["content-type"] == "application/json"
        args = json.loads(base64.b64decode(message["body"]))[0]
        ids.append(args[0])
    return ids[::-1]


def test_a_submitted_job_reaches_the_queue_once(
    client: TestClient, relay: Relay, broker: Redis
) -> None:
    job_ids = [submit(client)["id"] for _ in range(3)]
    assert relay.send_once() == 3
    assert relay.send_once() == 0
    assert queued_ids(broker) == job_ids


def test_a_crash_between_publish_and_mark_sends_again(
    client: TestClient, relay: Relay, broker: Redis, database: Database
) -> None:
    job_id = submit(client)["id"]
    relay.send_once()
    second = submit(client)["id"]
    sent: list[str] = []

    class CrashError(Exception):
        pass

    def send_and_crash() -> None:
        with database.transaction() as session:
            send_unsent(session, lambda task, row_id: sent.append(row_id))
            raise CrashError

    with pytest.raises(CrashError):
        send_and_crash()
    assert sent == [second]
    relay.send_once()
    with database.transaction() as session:
        assert claim_job(session, second, "w", 30)
        assert claim_job(session, second, "w", 30) is None  # the second delivery has no effect
    assert queued_ids(broker) == [job_id, second]


def test_two_relays_do_not_send_the_same_row(
    client: TestClient, relay: Relay, database: Database
) -> None:
    submit(client)
    sent: list[str] = []

    def publish(task: str, row_id: str) -> None:
        sent.append(row_id)

    with database.transaction() as first, database.transaction() as second:
        assert send_unsent(first, publish) == 1
        assert send_unsent(second, publish) == 0


def list_refills(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged of brokers that were filled again."""
    return [message for message in caplog.messages if "the broker is new" in message]


def test_a_wiped_broker_is_refilled(
    client: TestClient,
    relay: Relay,
    broker: Redis,
    database: Database,
    caplog: pytest.LogCaptureFixture,
) -> None:
    relay.send_once()  # a new installation: nothing waits, nothing was lost
    assert broker.exists(EPOCH_KEY)
    assert list_refills(caplog) == []
    waiting, running = submit(client)["id"], submit(client)["id"]
    relay.send_once()
    with database.transaction() as session:
        assert claim_job(session, running, "w", 30)
    for _ in range(3):  # kombu would remember the binding after the first time
        broker.flushall()
        assert relay.send_once() == 1
        assert queued_ids(broker) == [waiting]
        assert broker.smembers("_kombu.binding.celery")
        assert not broker.exists("ae.undeliver")
        assert broker.exists(EPOCH_KEY)
    assert list_refills(caplog) == ["the broker is new or was wiped; sending 1 message again"] * 3


def test_a_real_worker_gets_a_message_sent_after_a_wipe(
    client: TestClient, relay: Relay, broker: Redis, broker_url: str
) -> None:
    job_id = submit(client)["id"]
    relay.send_once()
    broker.flushall()
    relay.send_once()
    with Connection(broker_url) as connection, connection.SimpleQueue("celery") as queue:
        message = queue.get(timeout=5)
        assert message.headers["task"] == "excise.run_job"
        assert message.decode()[0] == [job_id]
        message.ack()


def test_the_sweeper_puts_an_orphan_back_into_the_queue(
    client: TestClient, relay: Relay, broker: Redis, database: Database
) -> None:
    job_id = submit(client)["id"]
    relay.send_once()
    with database.transaction() as session:
        assert claim_job(session, job_id, "w", 30)
    relay.sweep_once()
    assert relay.send_once() == 0
    with database.transaction() as session:
        session.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 second'"))
    relay.sweep_once()
    assert relay.send_once() == 1
    assert queued_ids(broker) == [job_id, job_id]
    types = [event["type"] for event in client.get(f"/v1/jobs/{job_id}/events").json()["data"]]
    assert types[-1] == "job.requeued"


def test_a_job_nobody_claims_is_sent_again(
    client: TestClient, relay: Relay, database: Database
) -> None:
    submit(client)
    relay.send_once()
    with database.transaction() as session:
        assert resend(session, JOBS, 300) == 0
        session.execute(text("UPDATE jobs SET queued_at = now() - interval '10 minutes'"))
        assert resend(session, JOBS, 300) == 0  # the message itself is recent
        session.execute(text("UPDATE outbox SET sent_at = now() - interval '10 minutes'"))
        assert resend(session, JOBS, 300) == 1
        assert resend(session, JOBS, 300) == 0
        assert count_unsent(session) == 1


def test_the_running_service_relays_and_survives_a_wipe(
    settings: Settings, client: TestClient, broker: Redis, database: Database
) -> None:
    clear_jobs(database)
    key = client.headers["Authorization"]
    live = settings.model_copy(update={"relay_enabled": True, "relay_seconds": 0.05})
    with TestClient(create_app(live)) as running:
        running.headers["Authorization"] = key
        job_id = submit(running)["id"]
        wait_for_queue(broker, [job_id])
        broker.flushall()
        wait_for_queue(broker, [job_id])


def test_an_outage_of_the_broker_is_waited_out(
    settings: Settings, client: TestClient, database: Database, broker: Redis, broker_url: str
) -> None:
    """The threads survive errors: a broker that starts late still gets the message."""
    clear_jobs(database)
    job_id = submit(client)["id"]
    live = settings.model_copy(update={"relay_seconds": 0.05, "sweep_seconds": 0.05})

    class FlakyBroker(Broker):
        failures = 3

        def has_epoch(self) -> bool:
            if self.failures:
                self.failures -= 1
                raise ConnectionError("down")
            return super().has_epoch()

    sender = FlakyBroker(broker_url)
    relay = Relay(database, sender, live)
    relay.start()
    try:
        wait_for_queue(broker, [job_id])
    finally:
        relay.stop()
        sender.close()


def wait_for_queue(broker: Redis, expected: list[str]) -> None:
    """Wait until exactly these jobs are queued."""
    deadline = time.monotonic() + 15
    while queued_ids(broker) != expected:
        assert time.monotonic() < deadline, queued_ids(broker)
        time.sleep(0.05)


def test_readiness_names_each_part(
    client: TestClient, settings: Settings, database: Database
) -> None:
    with database.transaction() as session:
        session.execute(text("DELETE FROM workers"))
    ready = client.get("/readyz")
    assert ready.status_code == 200
    checks = ready.json()["checks"]
    assert {name: check["ok"] for name, check in checks.items()} == {
        "database": True,
        "migrations": True,
        "broker": True,
        "workers": False,
        "rate_limits": True,
    }
    with database.transaction() as session:
        heartbeat_worker(session, "w1", "host", 1, None)
        heartbeat_worker(session, "w1", "host", 1, "job_1")
    assert client.get("/readyz").json()["checks"]["workers"] == {"ok": True, "detail": "1 alive"}
    down = settings.model_copy(
        update={
            "database_url": SecretStr("postgresql://user:secret@127.0.0.1:1/none"),
            "broker_url": SecretStr("redis://:secret@127.0.0.1:1/0"),
        }
    )
    with TestClient(create_app(down)) as broken:
        response = broken.get("/readyz")
        assert response.status_code == 503
        assert not any(check["ok"] for check in response.json()["checks"].values())
        assert "secret" not in response.text
        assert broken.get("/healthz").json() == {"status": "ok"}
        refused = broken.get("/v1/jobs", headers={"Authorization": "Bearer exc_" + "a" * 43})
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert refused.json()["error"]["code"] == "unavailable"


def test_pages_and_the_api_description(app_client: TestClient) -> None:
    home = app_client.get("/")
    assert "Excise" in home.text
    assert "default-src 'none'" in home.headers["content-security-policy"]
    assert app_client.get("/docs").status_code == 200
    schema = app_client.get("/openapi.json").json()
    assert schema["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    assert schema["paths"]["/v1/jobs"]["post"]["security"] == [{"HTTPBearer": []}]
    assert "CorrectionSpec" in schema["components"]["schemas"]
