"""One trace from a request through outbox, broker, worker and stages to vLLM, and its logs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from service.artifacts import open_artifact_store
from service.database import Database
from service.keys.operations import create_tenant_key
from service.models import new_id
from service.settings import Settings
from tests.fake_vllm import RunningVllm
from tests.integration.logs.test_processes import build_environment, run, serve
from tests.integration.service.conftest import build_checkpoint, submit
from tests.integration.serving.conftest import (  # noqa: F401 - fixtures
    Stage,
    retire_everything,
    settings,
    vllm,
)

pytest.importorskip("opentelemetry.sdk", reason="the extra `tracing` is not installed")

from tests.integration.tracing.collector import Collector, Seen, run_collector

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{CALLER}-01"
TOKEN = "metrics-T0ken-5521"
QUERY_SECRET = "query-s3cret-8842"


@dataclass
class Traced:
    """An API in a process of its own, with its spans and logs."""

    collector: Collector
    client: httpx.Client
    key: str
    log: Path
    environment: dict[str, str]
    stage: Stage
    tenant: str

    def follow(self, trace_id: str) -> dict[str, str]:
        """Return the headers of a request that is part of a trace."""
        return {"traceparent": f"00-{trace_id}-{CALLER}-01", "X-Request-ID": f"request-{trace_id}"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with run_collector() as running:
        yield running


@pytest.fixture
def traced(
    tmp_path: Path,
    collector: Collector,
    database: Database,
    database_url: str,
    broker_url: str,
    settings: Settings,  # noqa: F811
    vllm: RunningVllm,  # noqa: F811
) -> Iterator[Traced]:
    with Redis.from_url(broker_url) as broker:
        broker.flushall()
    build_checkpoint(tmp_path / "models" / "tiny")
    pool = {
        "name": "main",
        "url": vllm.url,
        "base_model": "tiny",
        "max_slots": 4,
        "api_key": "between-us",
    }
    environment = build_environment(
        EXCISE_DATABASE_URL=database_url,
        EXCISE_BROKER_URL=broker_url,
        EXCISE_ARTIFACTS=settings.artifacts,
        EXCISE_MODEL_ROOTS=str(tmp_path / "models"),
        EXCISE_SERVING_POOLS=json.dumps([pool]),
        EXCISE_SERVING_FOLDER=str(settings.serving_folder),
        EXCISE_RECONCILE_SECONDS="0.1",
        EXCISE_RELAY_SECONDS="0.1",
        EXCISE_METRICS_TOKEN=TOKEN,
        EXCISE_IS_WORKER="yes",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_BSP_SCHEDULE_DELAY="200",
    )
    tenant = new_id("tenant")
    with database.transaction() as session:
        key = create_tenant_key(session, tenant, "test")
    log = tmp_path / "api.log"
    with serve(log, environment) as client:
        client.headers["Authorization"] = f"Bearer {key}"
        stage = Stage(
            str(client.base_url), vllm, database, open_artifact_store(settings.artifacts), settings
        )
        yield Traced(collector, client, key, log, environment, stage, tenant)
    retire_everything(database)


def wait_for(condition: Callable[[], Any], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def check_chain(spans: dict[str, Seen], *names: str) -> None:
    """Check that each span is the parent of the next, and the caller's span that of the first."""
    parent = CALLER
    for name in names:
        assert spans[name].parent_id == parent, name
        parent = spans[name].span_id


def test_a_job_is_one_trace_and_its_logs_name_it(traced: Traced, tmp_path: Path) -> None:
    client, log = traced.client, tmp_path / "worker.log"
    program = "tests.integration.tracing.staged_worker"
    options = ("--pool", "solo", "--without-mingle", "--without-gossip", "--loglevel", "INFO")
    with run(log, traced.environment, "celery", "--quiet", "-A", program, "worker", *options):
        client.headers.update(traced.follow(TRACE_ID))
        client.get(f"/v1/jobs?api_key={QUERY_SECRET}")
        job = submit(client)  # type: ignore[arg-type]
        client.headers.pop("traceparent")
        wait_for(lambda: client.get(f"/v1/jobs/{job['id']}").json()["status"] == "rejected")
    before = ("excise-api: POST /v1/jobs", "excise-api: outbox send")
    work = ("excise-worker: job attempt", "excise-child: job work")
    wait_for(lambda: {*before, *work} <= set(traced.collector.list_trace(TRACE_ID)))
    spans = traced.collector.list_trace(TRACE_ID)
    for stage in ("prepare", "attribute"):
        check_chain(spans, *before, *work, f"excise-child: stage {stage}")
    assert QUERY_SECRET not in str(traced.collector.spans)
    assert traced.key not in str(traced.collector.spans)
    check_logs(traced, log, job["id"])


def check_logs(traced: Traced, worker_log: Path, job_id: str) -> None:
    """Check that every line is JSON without secrets, and that the job's lines say so."""
    worker, api = worker_log.read_text(), traced.log.read_text()
    secrets = (traced.key, TOKEN, QUERY_SECRET, "between-us")
    assert not [secret for secret in secrets if secret in worker + api]
    said = {"", "worker: Warm shutdown (MainProcess)"}  # Celery's, on standard output
    lines = [json.loads(line) for line in worker.splitlines() if line not in said]
    about = [line for line in lines if line["logger"] == "staged"]
    assert len(about) == 2
    (entry,) = traced.client.get("/v1/audit?action=job.submit").json()["data"]
    for line in about:
        assert line["job_id"] == job_id
        assert line["tenant_id"] == entry["tenant_id"]
        assert line["trace_id"] == TRACE_ID
    attempt = next(line for line in lines if "attempt 1" in line["message"])
    assert (attempt["job_id"], attempt["trace_id"]) == (job_id, TRACE_ID)
    assert entry["trace_id"] == TRACE_ID
    assert entry["request_id"] == f"request-{TRACE_ID}"
    requests = [json.loads(line) for line in api.splitlines()]
    submitted = next(line for line in requests if '"POST /v1/jobs' in line["message"])
    assert submitted["request_id"] == f"request-{TRACE_ID}"
    assert submitted["tenant_id"] == entry["tenant_id"]
    assert submitted["trace_id"] == TRACE_ID
    asked = next(line for line in requests if f"GET /v1/jobs/{job_id}" in line["message"])
    assert asked["job_id"] == job_id


def test_a_version_is_brought_up_in_its_trace_and_answers_in_others(traced: Traced) -> None:
    published, asked = "1" * 32, "2" * 32
    job_id = traced.stage.make_job(traced.tenant)
    answer = traced.client.post(
        f"/v1/models/{job_id}/publish", json={}, headers=traced.follow(published)
    )
    version_id = answer.json()["id"]
    traced.stage.build(version_id, "weights")
    traced.stage.wait_for(traced.client, version_id, "live")
    loaded = [seen for seen in traced.stage.vllm.state.seen if seen.path == "/v1/load_lora_adapter"]
    assert published in loaded[-1].headers["traceparent"]
    body = {"model": version_id, "prompt": "hello", "max_tokens": 2}
    reply = traced.client.post("/v1/completions", json=body, headers=traced.follow(asked))
    assert reply.status_code == 200, reply.text
    generated = traced.stage.vllm.state.seen[-1]
    wait_for(lambda: "excise-api: POST /v1/completions" in traced.collector.list_trace(asked))
    wait_for(lambda: "excise-api: version bring up" in traced.collector.list_trace(published))
    span = traced.collector.list_trace(asked)["excise-api: POST /v1/completions"]
    assert generated.headers["traceparent"] == f"00-{asked}-{span.span_id}-01"
    check_chain(
        traced.collector.list_trace(published),
        "excise-api: POST /v1/models/{job_id}/publish",
        "excise-api: version bring up",
    )
