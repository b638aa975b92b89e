"""What a job needs on the worker that holds it: stored with the job, or a reason to refuse it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update

from excise.estimates.machine import Machine
from excise.specs import CorrectionSpec
from service.database import Database
from service.errors import DoesNotFitError
from service.jobs.execution import heartbeat_worker
from service.models import Job, Worker
from tests.integration.service.conftest import build_checkpoint
from tests.integration.workers.conftest import claim
from tests.shapes import LLAMA_8B
from workers.kinds import registry
from workers.kinds.fitting import check_fit
from workers.kinds.kind import Kind
from workers.kinds.leased import LeasedJob
from workers.running import child, life_signs
from workers.running.context import JobContext
from workers.running.life_signs import LifeSigns
from workers.running.machine_report import MachineReport
from workers.running.supervision import Supervisor
from workers.settings import WorkerSettings

GIB = 2**30
SMALL = Machine(host_bytes=8 * GIB, flops=2e11, bytes_per_second=2e10)
LARGE = SMALL.model_copy(update={"host_bytes": 512 * GIB})


@pytest.fixture(autouse=True)
def own_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps pytest's logging, because the child's code runs in this process."""
    monkeypatch.setattr(child, "configure_logging", lambda *_, **__: None)


@pytest.fixture
def large_job(database: Database, settings: WorkerSettings, job_id: str) -> str:
    """A job whose model turns out to be large only after submission, as a hub's model may."""
    folder = settings.model_roots[0] / "tiny"
    (folder / "config.json").unlink()
    (folder / "model.safetensors").unlink()
    folder.rmdir()
    build_checkpoint(folder, **LLAMA_8B)
    return job_id


def tell(database: Database, machine: Machine, worker: str = "worker") -> None:
    with database.transaction() as session:
        heartbeat_worker(session, worker, "host", 1, None, machine)


def read_job(database: Database, job_id: str) -> Job:
    with database.transaction() as session:
        job = session.get_one(Job, job_id)
        session.expunge(job)
    return job


def insist(database: Database, job_id: str) -> None:
    with database.transaction() as session:
        spec = session.get_one(Job, job_id).spec
        session.execute(update(Job).where(Job.id == job_id).values(spec={**spec, "insist": True}))


def read_estimate(database: Database, job_id: str) -> dict[str, Any]:
    found = read_job(database, job_id).estimate
    assert found is not None
    return found


def test_a_job_that_does_not_fit_fails_with_a_remedy_before_loading(
    database: Database, settings: WorkerSettings, large_job: str
) -> None:
    tell(database, SMALL)
    child.run_claimed(LeasedJob(), claim(database, large_job), settings)
    job = read_job(database, large_job)
    assert (job.status, job.error_code, job.attempts) == ("failed", "does_not_fit", 1)
    assert job.error_message is not None
    assert "of main memory, of 8.0 GiB" in job.error_message
    assert "set insist to true" in job.error_message
    estimate = read_estimate(database, large_job)
    assert (estimate["fits"], estimate["source"], estimate["workers"]) == (False, "worker", 1)
    assert estimate["machine"]["host_bytes"] == 8 * GIB


def test_an_insisting_user_is_not_refused(
    database: Database,
    settings: WorkerSettings,
    large_job: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(context: JobContext, spec: CorrectionSpec) -> Any:
        context.event("test.ran", f"insist is {spec.insist}")
        raise DoesNotFitError("It was tried.")

    monkeypatch.setitem(registry.KINDS, "correction", Kind(CorrectionSpec, run))
    insist(database, large_job)
    tell(database, SMALL)
    child.run_claimed(LeasedJob(), claim(database, large_job), settings)
    assert read_job(database, large_job).error_message == "It was tried."
    assert not read_estimate(database, large_job)["fits"]


def test_a_job_that_fits_records_what_it_needs_here(
    database: Database, settings: WorkerSettings, large_job: str
) -> None:
    tell(database, LARGE)
    with JobContext(database, settings, claim(database, large_job)) as context:
        check_fit(context)
    estimate = read_estimate(database, large_job)
    assert estimate["fits"]
    assert estimate["host_bytes"] > 32 * GIB
    assert estimate["machine"]["disk_bytes"] > 0  # the current value, whatever the worker reported


def test_a_worker_without_a_known_machine_is_measured(
    database: Database,
    settings: WorkerSettings,
    large_job: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def measure(device: str) -> Machine:
        asked.append(device)
        return LARGE

    monkeypatch.setattr("workers.kinds.fitting.measure_machine", measure)
    with JobContext(database, settings, claim(database, large_job, "new")) as context:
        check_fit(context)
    assert asked == ["cpu"]
    assert read_estimate(database, large_job)["fits"]


def test_a_model_of_unknown_size_is_simply_tried(
    database: Database, settings: WorkerSettings, job_id: str
) -> None:
    with JobContext(database, settings, claim(database, job_id)) as context:
        check_fit(context)
    assert read_job(database, job_id).estimate is None


def test_no_space_for_results_is_reported_before_the_work(
    database: Database,
    settings: WorkerSettings,
    large_job: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.running.machine_report.count_free_bytes", lambda _: 1000)
    tell(database, LARGE)
    with (
        JobContext(database, settings, claim(database, large_job)) as context,
        pytest.raises(DoesNotFitError, match="where results are kept, of which 0 MiB are free"),
    ):
        check_fit(context)


def wait_until(check: Callable[[], Any], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := check():
            return found
        threading.Event().wait(0.1)
    raise AssertionError("it never came")


def test_a_worker_measures_itself_during_its_work(settings: WorkerSettings) -> None:
    report = MachineReport(settings)
    assert report.read() is None
    report.start()
    machine = wait_until(report.read)
    assert (machine.device, machine.device_bytes) == ("cpu", 0)
    assert machine.disk_bytes is not None
    again = report.read()
    assert again is not None
    assert again.flops == machine.flops


def test_a_failed_measurement_does_not_affect_the_worker(
    settings: WorkerSettings, caplog: pytest.LogCaptureFixture
) -> None:
    report = MachineReport(settings.model_copy(update={"device": "nonsense"}))
    report.start()
    wait_until(lambda: report.read() is None and "could not be measured" in caplog.text)
    assert report.read() is None


def test_heartbeats_describe_the_worker(
    database: Database, settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Machine | None] = [None, LARGE, None]
    report = SimpleNamespace(read=lambda: found.pop(0))
    monkeypatch.setattr(life_signs, "MachineReport", lambda _: report)
    supervisor = Supervisor(database, settings, f"w-{os.getpid()}")
    signs = LifeSigns(database, settings, supervisor)
    seen = []
    for _ in range(3):
        signs.beat()
        with database.transaction() as session:
            machine = session.get_one(Worker, supervisor.worker_id).machine
        seen.append(None if machine is None else machine["host_bytes"])
    assert seen == [None, 512 * GIB, 512 * GIB]


def test_absurd_free_bytes_are_capped(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from workers.running import machine_report

    monkeypatch.setattr(machine_report, "count_free_bytes", lambda _: 2**63)
    described = machine_report.describe_room(LARGE, settings)
    assert Machine.model_validate(described.model_dump(mode="json")) == described
