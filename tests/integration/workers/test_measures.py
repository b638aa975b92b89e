"""A worker's metrics: its own counts, and those of its children, however they ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.database import Database
from service.embedded.valkey import find_free_port
from tests.integration.workers import children
from tests.samples import Samples, find, read_samples
from workers.running.exposition import serve_metrics
from workers.running.supervision import Supervisor
from workers.settings import WorkerSettings


@pytest.fixture
def supervisor(database: Database, settings: WorkerSettings) -> Supervisor:
    return Supervisor(database, settings, "worker")


@pytest.fixture
def url(supervisor: Supervisor) -> Iterator[str]:
    address = f"127.0.0.1:{find_free_port()}"
    serve_metrics(address, supervisor.reports)
    return f"http://{address}/metrics"


def scrape(url: str) -> Samples:
    return read_samples(httpx.get(url, trust_env=False).text)


def grow(before: Samples, after: Samples, name: str, **labels: str) -> float:
    return find(after, name, **labels) - find(before, name, **labels)


def test_a_childs_counts_outlive_it(supervisor: Supervisor, url: str, job_id: str) -> None:
    before = scrape(url)
    supervisor.run(children.ActingJob(children.count_and_finish), job_id)
    after = scrape(url)
    assert grow(before, after, "excise_generated_tokens_total") == 30
    assert grow(before, after, "excise_generation_seconds_total") == 1.5
    stage = {"kind": "correction", "stage": "prepare"}
    assert grow(before, after, "excise_stage_seconds_count", **stage) == 1
    assert grow(before, after, "excise_stage_seconds_sum", **stage) == 7.0
    assert grow(before, after, "excise_stage_seconds_bucket", **stage, le="15.0") == 1
    assert grow(before, after, "excise_stage_seconds_bucket", **stage, le="5.0") == 0
    assert grow(before, after, "excise_attempts_total", work="job", ending="finished") == 1


def test_children_add_up_and_one_that_is_killed_loses_nothing_reported(
    supervisor: Supervisor, url: str, job_id: str
) -> None:
    before = scrape(url)
    supervisor.run(children.ActingJob(children.count_and_die), job_id)
    supervisor.run(children.ActingJob(children.count_and_finish), job_id)
    after = scrape(url)
    assert grow(before, after, "excise_generated_tokens_total") == 60
    given_back = {"work": "job", "ending": "given_back"}
    assert grow(before, after, "excise_attempts_total", **given_back) == 1


def test_a_child_that_finds_its_lease_lost_is_counted(
    supervisor: Supervisor, url: str, job_id: str
) -> None:
    before = scrape(url)
    supervisor.run(children.ActingJob(children.lose_lease), job_id)
    assert grow(before, scrape(url), "excise_lease_losses_total", work="job") == 1


def test_memory_is_reported(url: str) -> None:
    samples = scrape(url)
    available = find(samples, "excise_host_memory_bytes", state="available")
    assert 0 < available < find(samples, "excise_host_memory_bytes", state="total")
    assert find(samples, "excise_worker_memory_bytes", process="worker") > 2**20


def test_a_taken_address_only_disables_the_metrics(
    url: str, supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    address = url.removeprefix("http://").removesuffix("/metrics")
    serve_metrics(address, supervisor.reports)
    assert f"no metrics at {address}" in caplog.text


@pytest.mark.parametrize("address", ["9100", "host", "host:", ":9100", "ho st:9100"])
def test_invalid_addresses_are_rejected(settings: WorkerSettings, address: str) -> None:
    values: dict[str, Any] = {**settings.model_dump(), "metrics_address": address}
    with pytest.raises(ValueError, match="metrics_address"):
        WorkerSettings.model_validate(values)


def test_reports_come_while_a_child_runs(supervisor: Supervisor, url: str, job_id: str) -> None:
    before = scrape(url)
    work = children.ActingJob(children.count_and_hang)
    running = threading.Thread(target=supervisor.run, args=(work, job_id))
    running.start()
    deadline = time.monotonic() + 60
    while grow(before, scrape(url), "excise_generated_tokens_total") < 30:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert find(scrape(url), "excise_worker_memory_bytes", process="children") > 2**20
    supervisor.stop()
    running.join(60)
    assert not running.is_alive()
    assert grow(before, scrape(url), "excise_generated_tokens_total") == 30
