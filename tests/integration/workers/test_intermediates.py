"""Intermediate results are deleted once nobody needs them; a job's files never are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from service.artifacts import ArtifactStore, open_artifact_store
from service.broker import Broker
from service.database import Database
from service.jobs.execution import attach_artifact
from service.jobs.intermediates import collect_artifact
from service.jobs.shards import claim_next_shard, file_shard, open_shards
from service.models import Job, ModelVersion
from service.relay import Relay
from tests.integration.workers.conftest import claim
from workers.running.context import JobContext
from workers.settings import WorkerSettings

WAIT_SECONDS = 90.0


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    """Content that two jobs produce, and no other test."""
    return str(tmp_path).encode()


@pytest.fixture
def store(settings: WorkerSettings) -> ArtifactStore:
    return open_artifact_store(settings.artifacts)


@pytest.fixture
def relay(database: Database, settings: WorkerSettings, broker_url: str) -> Iterator[Relay]:
    """A relay that collects when called, a second after a job's end."""
    with database.transaction() as session:  # other tests' files are elsewhere
        session.execute(text("DELETE FROM stage_results"))
    broker = Broker(broker_url)
    yield Relay(database, broker, settings.model_copy(update={"retention_seconds": 60.0}))
    broker.close()


@pytest.fixture
def begin(
    database: Database, settings: WorkerSettings, make_job: Callable[[], str]
) -> Callable[[], JobContext]:
    """A function that submits and claims a job."""
    return lambda: JobContext(database, settings, claim(database, make_job()))


def end(context: JobContext, seconds_ago: float = 61.0) -> None:
    context.finish("succeeded", "passed", "done")
    with context.database.transaction() as session:
        session.execute(
            text("UPDATE jobs SET finished_at = finished_at - :age * interval '1 s' WHERE id = :i"),
            {"age": seconds_ago, "i": context.job_id},
        )


def run(context: JobContext, data: bytes, stage: str = "prepare") -> str:
    return context.run_stage(stage, {}, lambda progress: data).sha256


def test_a_result_is_deleted_with_its_job_and_files_are_kept(
    begin: Callable[[], JobContext], store: ArtifactStore, relay: Relay, settings: WorkerSettings
) -> None:
    context = begin()
    result, manifest = run(context, b"relevance"), run(context, b"manifest", "package")
    context.publish_file("manifest.json", b"manifest", "application/json")
    context.publish_file("report.md", b"report", "text/markdown")
    assert relay.collect_once() == 0  # the job is still running
    end(context, seconds_ago=1.0)
    assert relay.collect_once() == 0  # it has only just ended
    end_again = text("UPDATE jobs SET finished_at = now() - interval '61 s' WHERE id = :id")
    with context.database.transaction() as session:
        session.execute(end_again, {"id": context.job_id})
    assert relay.collect_once() == 1
    assert not store.exists(result)
    assert store.get(manifest) == b"manifest"
    assert len(list(Path(settings.artifacts).glob("*/*"))) == 2
    assert relay.collect_once() == 0


def test_an_artifact_that_another_job_needs_is_kept_until_that_ends(
    begin: Callable[[], JobContext], store: ArtifactStore, relay: Relay, content: bytes
) -> None:
    first, second = begin(), begin()
    shared = run(first, content)
    assert run(second, content) == shared
    end(first)
    assert relay.collect_once() == 0
    assert store.get(shared) == content
    end(second)
    assert relay.collect_once() == 1
    assert not store.exists(shared)


def test_files_of_another_job_are_kept(
    begin: Callable[[], JobContext], store: ArtifactStore, relay: Relay, content: bytes
) -> None:
    first, second = begin(), begin()
    shared = run(first, content)
    second.publish_file("report.md", content, "text/markdown")
    end(second)
    end(first)
    assert relay.collect_once() == 0
    assert store.get(shared) == content


@pytest.mark.parametrize("place", ["patch_sha256", "canary_sha256", "files"])
def test_files_of_a_published_version_are_kept(
    begin: Callable[[], JobContext], store: ArtifactStore, relay: Relay, place: str
) -> None:
    context = begin()
    sha256 = run(context, b"adapter")
    with context.database.transaction() as session:
        job = session.get_one(Job, context.job_id)
        named = {"patch_sha256": "0" * 64} | {
            place: {"adapter_model.safetensors": sha256} if place == "files" else sha256
        }
        session.add(
            ModelVersion(
                id=f"mv_{place}",
                tenant_id=job.tenant_id,
                job_id=job.id,
                api_key_id=job.api_key_id,
                base_model="tiny",
                pool="pool",
                max_rank=8,
                verdict="passed",
                **named,
            )
        )
    end(context)
    assert relay.collect_once() == 0
    assert store.get(sha256) == b"adapter"


@pytest.mark.parametrize("outcome", ["finished", "unfinished"])
def test_results_of_shards_are_deleted_with_their_job(
    begin: Callable[[], JobContext], store: ArtifactStore, relay: Relay, outcome: str
) -> None:
    context = begin()
    prepared = run(context, b"prepared")
    job_id, token = context.claim.job_id, context.claim.token
    with context.database.transaction() as session:
        open_shards(session, job_id, token, "attribute", "key", prepared, 2)
    with context.database.transaction() as session:
        shard = claim_next_shard(session, job_id, token, "attribute", "key", 30)
    assert shard is not None
    sums = context.keep(
        b"sums",
        lambda sha256: context.transact(
            lambda session: file_shard(session, shard.shard_id, shard.token, sha256)
        ),
    )
    if outcome == "finished":
        end(context)
        assert relay.collect_once() == 2
    assert store.exists(sums) is store.exists(prepared) is (outcome == "unfinished")
    assert relay.collect_once() == 0


def test_a_file_already_deleted_is_no_error(
    begin: Callable[[], JobContext], store: ArtifactStore, relay: Relay
) -> None:
    context = begin()
    store.delete(run(context, b"relevance"))
    end(context)
    assert relay.collect_once() == 1
    assert relay.collect_once() == 0


def test_a_file_deleted_between_writing_and_naming_is_written_again(
    begin: Callable[[], JobContext], store: ArtifactStore, relay: Relay, content: bytes
) -> None:
    first, second = begin(), begin()
    shared = run(first, content)
    end(first)

    def write(sha256: str) -> None:
        # The second job found the file and wrote nothing; the file is deleted before the job names
        # it.
        assert relay.collect_once() == 1
        assert not store.exists(sha256)
        claim = second.claim
        with second.database.transaction() as session:
            attach_artifact(session, claim.job_id, claim.token, "a", sha256, len(content), "x/y")

    assert second.keep(content, write) == shared
    assert store.get(shared) == content
    assert relay.collect_once() == 0


def test_a_file_being_named_is_not_deleted(
    begin: Callable[[], JobContext],
    database: Database,
    store: ArtifactStore,
    relay: Relay,
    content: bytes,
) -> None:
    first, second = begin(), begin()
    shared = run(first, content)
    end(first)
    deleted: list[bool] = []

    def collect() -> None:
        with database.transaction() as session:
            deleted.append(collect_artifact(session, store, shared, 60.0))

    thread = threading.Thread(target=collect)
    with database.transaction() as session:
        claim = second.claim
        attach_artifact(session, claim.job_id, claim.token, "a", shared, len(content), "x/y")
        thread.start()
        wait_for_a_waiting_lock(database)
        assert store.exists(shared)
    thread.join(WAIT_SECONDS)
    assert deleted == [False]
    assert store.get(shared) == content


def wait_for_a_waiting_lock(database: Database) -> None:
    """Wait until some transaction waits for an artifact that another one has locked."""
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        with database.transaction() as session:
            if session.scalar(waiting):
                return
        assert time.monotonic() < deadline, "nobody waits"
        time.sleep(0.05)


def test_a_stages_progress_is_kept_once_and_deleted_when_done(
    begin: Callable[[], JobContext], store: ArtifactStore, settings: WorkerSettings, content: bytes
) -> None:
    context = begin()
    assert context.recall("attribute.segments", "key") is None
    first, second = content + b"1", content + b"2"
    for saved in (first, second, second):
        context.save("attribute.segments", "key", saved)
        assert context.recall("attribute.segments", "key") == saved
    assert context.recall("attribute.segments", "another") is None
    assert len(list(Path(settings.artifacts).glob("*/*"))) == 1
    context.forget("attribute.segments", "key")
    assert context.recall("attribute.segments", "key") is None
    assert list(Path(settings.artifacts).glob("*/*")) == []
    context.forget("attribute.segments", "key")


def test_identical_progress_of_another_job_is_kept(
    begin: Callable[[], JobContext], content: bytes
) -> None:
    first, second = begin(), begin()
    for context in (first, second):
        context.save("attribute.segments", "key", content)
    first.forget("attribute.segments", "key")
    assert second.recall("attribute.segments", "key") == content
