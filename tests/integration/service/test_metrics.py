"""`/metrics` over a real database and broker: its content, its readers, and outages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import text

from service.app import create_app
from service.broker import Broker
from service.database import Database
from service.jobs.execution import claim_job, heartbeat_worker
from service.metrics import database as figures_module
from service.metrics import figures
from service.relay import Relay
from service.settings import Settings
from tests.integration.service.conftest import clear_jobs, submit
from tests.samples import Samples, find, read_samples

TOKEN = "metrics-T0ken-5521"


@contextmanager
def open_app(settings: Settings, host: str = "127.0.0.1") -> Iterator[TestClient]:
    app = create_app(settings)
    with TestClient(app, raise_server_exceptions=False, client=(host, 4711)) as client:
        yield client


@pytest.fixture
def scraper(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A Prometheus on this machine whose scrapes are never answered from a cache."""
    monkeypatch.setattr(figures_module, "FRESH_SECONDS", -1.0)
    with open_app(settings) as client:
        yield client


def scrape(client: TestClient) -> Samples:
    """Return every sample by name and labels."""
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    return read_samples(answer.text)


def test_jobs_are_reported_by_state_and_age(
    scraper: TestClient, database: Database, make_key: Callable[..., str]
) -> None:
    clear_jobs(database)
    scraper.headers["Authorization"] = f"Bearer {make_key()}"
    young, old, running = (submit(scraper)["id"] for _ in range(3))
    with database.transaction() as session:
        session.execute(
            text("UPDATE jobs SET queued_at = now() - interval '2 hours' WHERE id = :id"),
            {"id": old},
        )
        assert claim_job(session, running, "worker", 30)
    samples = scrape(scraper)
    queued = {"kind": "correction", "status": "queued"}
    assert find(samples, "excise_jobs", **queued, age="5m") == 1, young
    assert find(samples, "excise_jobs", **queued, age="6h") == 1
    assert find(samples, "excise_jobs", status="running") == 1
    assert find(samples, "excise_queue_depth", work="job") == 2
    assert 7200 <= find(samples, "excise_queue_oldest_seconds", work="job") < 7300
    assert find(samples, "excise_outbox_unsent") == 3
    assert find(samples, "excise_database_up") == find(samples, "excise_broker_up") == 1


def test_the_outbox_lag_is_reported(
    scraper: TestClient,
    database: Database,
    settings: Settings,
    broker: Redis,
    make_key: Callable[..., str],
) -> None:
    clear_jobs(database)
    scraper.headers["Authorization"] = f"Bearer {make_key()}"
    submit(scraper)
    with database.transaction() as session:
        session.execute(text("UPDATE outbox SET created_at = now() - interval '1 minute'"))
    before = scrape(scraper)
    assert find(before, "excise_outbox_lag_seconds") >= 60
    sender = Broker(settings.broker_url.get_secret_value())
    Relay(database, sender, settings).send_once()
    sender.close()
    after = scrape(scraper)
    assert find(after, "excise_outbox_lag_seconds") == 0
    sent = find(after, "excise_outbox_sent_total") - find(before, "excise_outbox_sent_total")
    assert sent >= 1
    assert find(after, "excise_broker_messages") == 1


def test_workers_are_reported_by_what_they_do(scraper: TestClient, database: Database) -> None:
    with database.transaction() as session:
        session.execute(text("DELETE FROM workers"))
        heartbeat_worker(session, "idle", "host", 1, None)
        heartbeat_worker(session, "busy", "host", 2, "job_x")
        heartbeat_worker(session, "silent", "host", 3, "job_x")
        heartbeat_worker(session, "long gone", "host", 4, "job_x")
        for name, age in (("silent", "1 hour"), ("long gone", "2 days")):
            session.execute(
                text(
                    "UPDATE workers SET heartbeat_at = now() - CAST(:age AS interval)"
                    " WHERE id = :id"
                ),
                {"age": age, "id": name},
            )
    samples = scrape(scraper)
    states = {state: find(samples, "excise_workers", state=state) for state in ("idle", "busy")}
    assert states == {"idle": 1, "busy": 1}
    assert find(samples, "excise_workers", state="silent") == 1


def test_artifacts_name_only_a_few_tenants(
    scraper: TestClient,
    database: Database,
    make_key: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(figures, "TENANTS", 2)
    with database.transaction() as session:
        session.execute(text("DELETE FROM job_artifacts"))
    for size in (10, 200, 3000, 40_000):
        scraper.headers["Authorization"] = f"Bearer {make_key()}"
        job = submit(scraper)["id"]
        with database.transaction() as session:
            session.execute(
                text(
                    "INSERT INTO job_artifacts (job_id, name, sha256, bytes, media_type)"
                    " VALUES (:job, 'report.json', 'x', :size, 'text/plain')"
                ),
                {"job": job, "size": size},
            )
    samples = scrape(scraper)
    by_tenant = {
        dict(labels)["tenant"]: value
        for (name, labels), value in samples.items()
        if name == "excise_artifact_bytes"
    }
    assert sorted(by_tenant.values()) == [210, 3000, 40_000]
    assert by_tenant["other"] == 210


def test_requests_are_reported_by_route_and_never_by_path(scraper: TestClient) -> None:
    before = scrape(scraper)
    scraper.get("/v1/jobs/job_000000000000000000000000")
    scraper.get("/no/such/page")
    scraper.request("BREW", "/healthz")
    after = scrape(scraper)

    def count(**labels: str) -> float:
        name = "excise_http_seconds_count"
        return find(after, name, **labels) - find(before, name, **labels)

    # without a key, no route is looked up
    assert count(method="GET", route="none", status="4xx") == 2
    assert count(method="other") == 1
    assert count(method="GET", route="/metrics", status="2xx") == 1
    routes = {dict(labels).get("route", "") for _, labels in after}
    assert not any("job_0" in route or "such" in route for route in routes)


def test_the_space_for_artifacts_is_reported(scraper: TestClient, settings: Settings) -> None:
    Path(settings.artifacts).mkdir(exist_ok=True)
    samples = scrape(scraper)
    free = find(samples, "excise_artifact_store_bytes", state="free")
    assert 0 < free <= find(samples, "excise_artifact_store_bytes", state="total")
    remote = settings.model_copy(update={"artifacts": "memory://bucket/prefix"})
    with open_app(remote) as client:
        assert "excise_artifact_store_bytes" not in client.get("/metrics").text


def test_the_figures_are_cached_for_a_while(settings: Settings, database: Database) -> None:
    with open_app(settings) as client:
        first = scrape(client)
        with database.transaction() as session:
            heartbeat_worker(session, "new one", "host", 1, None)
        second = scrape(client)
    name = "excise_workers"
    assert find(first, name, state="idle") == find(second, name, state="idle")


def test_an_outage_is_reported_and_breaks_nothing(settings: Settings) -> None:
    down = settings.model_copy(
        update={
            "database_url": SecretStr("postgresql://postgres:x@127.0.0.1:1/postgres"),
            "broker_url": SecretStr("redis://127.0.0.1:1/0"),
        }
    )
    with open_app(down) as client:
        samples = scrape(client)
    assert find(samples, "excise_database_up") == find(samples, "excise_broker_up") == 0
    assert ("excise_database_up", ()) in samples
    assert not [name for name, _ in samples if name == "excise_jobs"]


@pytest.mark.parametrize("host", ["203.0.113.9", "testclient"])
def test_without_a_token_only_this_machine_is_answered(settings: Settings, host: str) -> None:
    with open_app(settings, host) as client:
        assert client.get("/metrics").status_code == 403
    with open_app(settings, "::1") as client:
        assert client.get("/metrics").status_code == 200


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
def test_what_a_proxy_passes_on_does_not_come_from_this_machine(
    settings: Settings, header: str
) -> None:
    with open_app(settings, "127.0.0.1") as client:
        assert client.get("/metrics", headers={header: "127.0.0.1"}).status_code == 403


def test_with_a_token_everybody_needs_it(settings: Settings, tmp_path: Path) -> None:
    guarded = settings.model_copy(update={"metrics_token": SecretStr(TOKEN)})
    assert TOKEN in guarded.list_secrets()
    with open_app(guarded) as client:
        refused = client.get("/metrics")
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")
        for shown in ("Bearer wrong", f"Basic {TOKEN}", "Bearer ", "Bearer ü".encode()):
            answer = client.get("/metrics", headers={"Authorization": shown})
            assert answer.status_code == 401
        answer = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 200
        assert TOKEN not in answer.text + refused.text
