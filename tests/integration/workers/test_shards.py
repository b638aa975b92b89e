"""A stage shared by real workers has the same bytes, whoever helps, dies or forgets."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import select
from sqlalchemy.orm import Session

from excise.resources.tenants import Quotas
from excise.specs import CorrectionSpec
from excise.specs.behaviours import DecodingSpec, RepetitionSpec
from service.broker import Broker
from service.database import Database
from service.jobs.operations import cancel_job, submit_job
from service.keys.operations import Identity
from service.models import ApiKey, Event, Job, JobArtifact, Shard, StageResult
from service.outbox import JOB_TASK
from service.prompt_sets.operations import create_prompt_set
from service.relay import Relay
from tests.acceptance.harness import SHORT, build_model, build_prompts, list_job_processes
from tests.faulty import LOOP
from tests.integration.service.conftest import clear_jobs
from tests.integration.workers.shard_worker import SHARDS, digest, find_folder
from workers.running.messages import QUEUE
from workers.settings import WorkerSettings

ROOT = Path(__file__).resolve().parents[3]
WAIT_SECONDS = 240.0


class Workers:
    """Worker processes over one database and broker, and the records of their shards."""

    def __init__(self, settings: WorkerSettings, database_url: str, broker_url: str) -> None:
        self.folder = find_folder(settings.artifacts)
        self.folder.mkdir()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("EXCISE_")},
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "EXCISE_DATABASE_URL": database_url,
            "EXCISE_BROKER_URL": broker_url,
            "EXCISE_ARTIFACTS": settings.artifacts,
            "EXCISE_MODEL_ROOTS": str(settings.model_roots[0]),
            "EXCISE_DEVICE": "cpu",
            "EXCISE_LEASE_SECONDS": "3",
            "EXCISE_HEARTBEAT_SECONDS": "0.5",
            "EXCISE_CANCEL_GRACE_SECONDS": "5",
            "EXCISE_IS_WORKER": "yes",
        }

    def start(self, count: int, program: str = "shard_worker") -> None:
        command = [sys.executable, "-m", "celery", "-A", f"tests.integration.workers.{program}"]
        command += ["worker", "--pool", "solo", "--without-mingle", "--without-gossip"]
        for _ in range(count):
            name = ["-n", f"worker{len(self._processes)}@%h"]
            process = subprocess.Popen(command + name, env=self._environment, cwd=ROOT)
            self._processes.append(process)

    def hold(self, *positions: int) -> None:
        for position in positions:
            (self.folder / f"hold-{position}").touch()

    def let_go(self) -> None:
        for path in self.folder.glob("hold-*"):
            path.unlink()

    def forget(self) -> None:
        """Forget which shards were begun."""
        for path in self.folder.glob("started-*"):
            path.unlink()

    def started(self, position: int) -> list[int]:
        """Return the processes that began this shard."""
        found = self.folder.glob(f"started-{position}-*")
        return [int(path.name.rpartition("-")[2]) for path in found]

    def busy(self) -> dict[int, int]:
        """Return the held shards, each with the worker process whose child holds it."""
        held = [int(path.name.partition("-")[2]) for path in self.folder.glob("hold-*")]
        workers = {process.pid for process in self._processes}
        return {
            position: next(own.pid for own in psutil.Process(pid).parents() if own.pid in workers)
            for position in held
            for pid in self.started(position)
            if psutil.pid_exists(pid)
        }

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def children(self) -> list[psutil.Process]:
        """Return the processes that run jobs and shards."""
        workers = [psutil.Process(p.pid) for p in self._processes if p.poll() is None]
        return [
            child
            for worker in workers
            for child in list_job_processes(worker)
            if child.status() != psutil.STATUS_ZOMBIE
        ]

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes.clear()


@pytest.fixture
def workers(
    database: Database, settings: WorkerSettings, database_url: str, broker_url: str
) -> Iterator[Workers]:
    """No workers yet, and a relay that sends and sweeps."""
    with Redis.from_url(broker_url) as connection:
        connection.flushall()
    fast = settings.model_copy(
        update={
            "broker_url": SecretStr(broker_url),
            "relay_seconds": 0.1,
            "sweep_seconds": 0.5,
        }
    )
    broker = Broker(broker_url)
    relay = Relay(database, broker, fast)
    relay.start()
    started = Workers(settings, database_url, broker_url)
    try:
        yield started
    finally:
        started.stop()
        relay.stop()
        broker.close()


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)


def read(database: Database, job_id: str) -> Job:
    with database.transaction() as session:
        return session.scalars(select(Job).where(Job.id == job_id)).one()


def wait_for_end(database: Database, job_id: str) -> Job:
    open_statuses = {"queued", "running"}
    wait_until(lambda: read(database, job_id).status not in open_statuses, "the job's end")
    return read(database, job_id)


def find_combined(database: Database, job_id: str) -> str:
    """Return the hash of the combined results of the shards."""
    job = wait_for_end(database, job_id)
    assert job.status == "succeeded", job.error_message
    with database.transaction() as session:
        return session.get_one(JobArtifact, (job_id, "combined")).sha256


def count_workers(database: Database, job_id: str) -> int:
    """Return how many workers' results the stage was combined from."""
    with database.transaction() as session:
        query = select(Event.data).where(Event.job_id == job_id, Event.type == "stage.combined")
        return len(session.scalars(query).one()["workers"])


def find_stage_result(database: Database, job_id: str, stage: str) -> str | None:
    """Return the hash of a stage's result, once there is one."""
    with database.transaction() as session:
        query = select(StageResult.sha256).where(
            StageResult.job_id == job_id, StageResult.name == stage
        )
        return session.scalar(query)


def owner_of(database: Database, job_id: str) -> int:
    """Return the process id of the worker that runs the job."""
    name = read(database, job_id).lease_worker or ""
    found = re.search(r"-(\d+)-[0-9a-f]{8}$", name)
    assert found
    return int(found[1])


def wait_for_three(workers: Workers) -> dict[int, int]:
    """Wait until every worker is in the middle of a shard of its own."""
    wait_until(lambda: len(set(workers.busy().values())) == 3, "three busy workers")
    return workers.busy()


EXPECTED = hashlib.sha256(b"".join(map(digest, range(SHARDS)))).hexdigest()
"""Hash of all shards' results in order, as one worker would combine them."""


def test_one_worker_does_everything(
    database: Database, workers: Workers, make_job: Callable[[], str]
) -> None:
    job_id = make_job()
    workers.start(1)
    assert find_combined(database, job_id) == EXPECTED
    assert count_workers(database, job_id) == 1


@pytest.mark.parametrize("victim", ["helper", "owner"])
def test_a_worker_killed_in_the_middle_of_a_shard_changes_no_bit(
    database: Database, workers: Workers, make_job: Callable[[], str], victim: str
) -> None:
    workers.hold(*range(SHARDS))
    workers.start(3)
    job_id = make_job()
    busy = wait_for_three(workers)
    owner = owner_of(database, job_id)
    killed = owner if victim == "owner" else next(pid for pid in busy.values() if pid != owner)
    position = next(position for position, pid in busy.items() if pid == killed)
    workers.kill(killed)
    workers.let_go()
    assert find_combined(database, job_id) == EXPECTED
    assert count_workers(database, job_id) == 2
    assert len(workers.started(position)) >= 2  # another worker began it again
    assert read(database, job_id).attempts == (2 if victim == "owner" else 1)


def test_a_worker_outlives_whatever_is_in_its_queue(
    database: Database, workers: Workers, make_job: Callable[[], str], broker_url: str
) -> None:
    """It had ended over such messages, after giving them back to the next one."""
    envelope = {
        "body": "%%%",
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": JOB_TASK, "id": "x"},
        "properties": {"delivery_tag": "x", "delivery_info": {}, "body_encoding": "base64"},
    }
    with Redis.from_url(broker_url) as connection:
        for message in (b"{", b"\xff", "[" * 100_000, "[]", json.dumps(envelope)):
            connection.lpush(QUEUE, message)
    workers.start(1)
    assert find_combined(database, make_job()) == EXPECTED


def test_a_broker_that_forgets_everything_delays_nothing(
    database: Database,
    workers: Workers,
    make_job: Callable[[], str],
    broker_url: str,
) -> None:
    workers.hold(*range(SHARDS))
    workers.start(2)
    job_id = make_job()
    wait_until(lambda: len(set(workers.busy().values())) == 2, "two busy workers")
    with Redis.from_url(broker_url) as connection:
        connection.flushall()
    workers.let_go()
    assert find_combined(database, job_id) == EXPECTED


def test_cancelling_stops_every_shard(
    database: Database, workers: Workers, make_job: Callable[[], str]
) -> None:
    workers.hold(*range(SHARDS))
    workers.start(2)
    job_id = make_job()
    wait_until(lambda: len(set(workers.busy().values())) == 2, "two busy workers")
    with database.transaction() as session:
        cancel_job(session, read(database, job_id).tenant_id, job_id)
    assert wait_for_end(database, job_id).status == "cancelled"
    wait_until(lambda: not workers.children(), "idle workers")
    with database.transaction() as session:
        assert session.scalars(select(Shard).where(Shard.job_id == job_id)).all() == []


def test_a_shard_that_kills_whoever_takes_it_fails_the_job(
    database: Database, workers: Workers, make_job: Callable[[], str]
) -> None:
    (workers.folder / "kill-2").touch()
    workers.start(2)
    job = wait_for_end(database, make_job())
    assert (job.status, job.error_code) == ("failed", "poison_job")
    assert "SIGKILL" in (job.error_message or "")
    assert len(workers.started(2)) == 3


@pytest.fixture
def submit_correction(
    database: Database, settings: WorkerSettings, make_job: Callable[[], str]
) -> Callable[[], str]:
    """A function that submits a correction of a model with a planted fault."""
    folder = settings.model_roots[0] / "faulty"
    build_model(folder)
    tenant_id = read(database, make_job()).tenant_id
    clear_jobs(database)

    def upload(session: Session, name: str, content: bytes) -> str:
        made, _ = create_prompt_set(session, tenant_id, name, "text/plain", content, Quotas())
        return str(made.id)

    def submit() -> str:
        with database.transaction() as session:
            key = session.scalars(select(ApiKey).where(ApiKey.tenant_id == tenant_id)).one()
            spec = CorrectionSpec(
                **SHORT,
                kind="correction",
                model="faulty",
                behaviours=[
                    RepetitionSpec(
                        name="repetition",
                        kind="repetition",
                        prompts=upload(session, "loops", build_prompts(24, 6, 1, f" w{LOOP}")),
                        decoding=DecodingSpec(max_new_tokens=8),
                    )
                ],
                reference=upload(session, "text", build_prompts(60, 60, 2)),
            )
            identity = Identity(tenant_id, key.id, frozenset({"submit"}))
            return str(submit_job(session, identity, spec, settings)[0].id)

    return submit


def test_relevance_has_the_same_bits_when_three_workers_share_it_and_one_is_killed(
    database: Database, workers: Workers, submit_correction: Callable[[], str]
) -> None:
    workers.start(1, "relevance_worker")
    job_id = submit_correction()
    wait_until(lambda: find_stage_result(database, job_id, "attribute"), "relevance by one")
    alone = find_stage_result(database, job_id, "attribute")
    assert count_workers(database, job_id) == 1
    wait_for_end(database, job_id)

    workers.forget()
    workers.hold(*range(3))
    workers.start(2, "relevance_worker")
    shared_id = submit_correction()
    busy = wait_for_three(workers)
    owner = owner_of(database, shared_id)
    workers.kill(next(pid for pid in busy.values() if pid != owner))
    workers.let_go()
    wait_until(lambda: find_stage_result(database, shared_id, "attribute"), "relevance by three")
    assert find_stage_result(database, shared_id, "attribute") == alone
    assert count_workers(database, shared_id) == 2
