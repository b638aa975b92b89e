"""A kind of job is added with a folder and two lines, and then runs like any other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from excise.resources.tenants import Quotas
from excise.specs import SPECS, parse_spec
from service.artifacts import open_artifact_store
from service.database import Database
from service.errors import InvalidRequestError
from service.jobs.execution import Claim
from service.jobs.operations import get_artifact, get_job, submit_job
from service.jobs.shards import claim_shard, list_shards, open_shards
from service.jobs.views import view_job
from service.keys.operations import Identity, authenticate, create_tenant_key
from service.leases.operations import release
from service.models import new_id
from service.prompt_sets.operations import create_prompt_set
from tests.integration.service.conftest import clear_jobs
from tests.integration.workers.conftest import claim
from tests.integration.workers.word_count.pipeline import WORD_COUNT
from tests.integration.workers.word_count.spec import WordCountSpec
from tests.tiny import save_tiny_checkpoint
from workers.kinds.kind import Kind
from workers.kinds.leased import LeasedJob, LeasedShard
from workers.kinds.registry import KINDS
from workers.running import child
from workers.settings import WorkerSettings

TWELVE = [f"two words{number}" for number in range(12)]


@pytest.fixture(autouse=True)
def word_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds the two lines."""
    monkeypatch.setitem(SPECS, "word_count", WordCountSpec)
    monkeypatch.setitem(KINDS, "word_count", WORD_COUNT)


@pytest.fixture(autouse=True)
def own_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps pytest's logging, because the child's code runs in this process."""
    monkeypatch.setattr(child, "configure_logging", lambda *_, **__: None)


@pytest.fixture
def identity(database: Database, settings: WorkerSettings) -> Identity:
    """The submitter; the model is a real one, and no other job is open."""
    clear_jobs(database)
    folder = settings.model_roots[0] / "tiny"
    shutil.rmtree(folder)
    save_tiny_checkpoint(folder)
    with database.transaction() as session:
        key = create_tenant_key(session, new_id("tenant"), "test")
        return authenticate(session, key)


@pytest.fixture
def submit(database: Database, settings: WorkerSettings, identity: Identity) -> Callable[..., str]:
    """A function that submits a word count of these prompts."""

    def submit(texts: Sequence[str] = TWELVE, **changes: Any) -> str:
        with database.transaction() as session:
            content = "\n".join(texts).encode()
            found, _ = create_prompt_set(
                session, identity.tenant_id, "set", "text/plain", content, Quotas()
            )
            document = {"kind": "word_count", "model": "tiny", "prompts": found.id, **changes}
            return str(submit_job(session, identity, parse_spec(document), settings)[0].id)

    return submit


def view(database: Database, identity: Identity, job_id: str) -> dict[str, Any]:
    """Return the job as the API shows it."""
    with database.transaction() as session:
        return view_job(get_job(session, identity.tenant_id, job_id)).model_dump()


def read_report(
    database: Database, settings: WorkerSettings, identity: Identity, job_id: str
) -> dict[str, Any]:
    with database.transaction() as session:
        artifact = get_artifact(session, identity.tenant_id, job_id, "report.json")
    report: dict[str, Any] = json.loads(
        open_artifact_store(settings.artifacts).get(artifact.sha256)
    )
    return report


def open_count(database: Database, held: Claim, settings: WorkerSettings) -> list[str]:
    """Open the stage of a count of twelve prompts; return the ids of its shards."""
    source = open_artifact_store(settings.artifacts).put_bytes("\n".join(TWELVE).encode())
    with database.transaction() as session:
        open_shards(session, held.job_id, held.token, "count", "key", source, 3)
        states = list_shards(session, held.job_id, held.token, "count", "key")
    return [state.shard_id for state in states]


@pytest.mark.parametrize(
    ("least", "status", "verdict"),
    [(24, "succeeded", "passed"), (25, "rejected", "rejected")],
)
def test_its_report_ends_the_job(
    database: Database,
    settings: WorkerSettings,
    identity: Identity,
    submit: Callable[..., str],
    least: int,
    status: str,
    verdict: str,
) -> None:
    job_id = submit(least=least)
    child.run_claimed(LeasedJob(), claim(database, job_id), settings)
    job = view(database, identity, job_id)
    assert (job["kind"], job["status"], job["verdict"]) == ("word_count", status, verdict)
    assert [(stage["name"], stage["status"]) for stage in job["stages"]] == [("count", "succeeded")]
    assert [artifact["name"] for artifact in job["artifacts"]] == ["manifest.json", "report.json"]
    report = read_report(database, settings, identity, job_id)
    assert (report["kind"], report["words"], report["verdict"]) == ("word_count", 24, verdict)


def test_another_worker_does_a_shard_of_it(
    database: Database, settings: WorkerSettings, submit: Callable[..., str]
) -> None:
    held = claim(database, submit(), "owner")
    first, *others = open_count(database, held, settings)
    with database.transaction() as session:
        shard = claim_shard(session, first, "helper", 30)
    assert shard is not None
    child.run_claimed(LeasedShard(), shard, settings)
    with database.transaction() as session:
        states = list_shards(session, held.job_id, held.token, "count", "key")
    results = [state.result_sha256 for state in states]
    assert results[1:] == [None] * len(others)
    assert open_artifact_store(settings.artifacts).get(results[0] or "") == b"10"


def test_a_finished_stage_is_not_built_again(
    database: Database,
    settings: WorkerSettings,
    identity: Identity,
    submit: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job_id = submit()
    held = claim(database, job_id)

    def count_and_stop(*arguments: Any) -> Any:
        WORD_COUNT.run(*arguments)
        with database.transaction() as session:
            release(session, LeasedJob.policy, job_id, held.token, "killed")
        raise RuntimeError

    monkeypatch.setitem(KINDS, "word_count", Kind(WordCountSpec, count_and_stop))
    child.run_claimed(LeasedJob(), held, settings)
    assert view(database, identity, job_id)["status"] == "queued"
    monkeypatch.setitem(KINDS, "word_count", WORD_COUNT)
    monkeypatch.setattr("tests.integration.workers.word_count.pipeline.build_sharded_work", None)
    child.run_claimed(LeasedJob(), claim(database, job_id), settings)
    job = view(database, identity, job_id)
    assert (job["status"], job["attempts"]) == ("succeeded", 2)


def test_its_own_errors_state_what_is_wrong_with_the_input(
    database: Database, settings: WorkerSettings, identity: Identity, submit: Callable[..., str]
) -> None:
    job_id = submit([*TWELVE, "___"])
    child.run_claimed(LeasedJob(), claim(database, job_id), settings)
    job = view(database, identity, job_id)
    assert job["status"] == "failed"
    assert job["error"]["code"] == "invalid_input"
    assert job["error"]["message"] == "a prompt has no words; write one"


def test_its_prompt_sets_and_fields_are_checked(submit: Callable[..., str]) -> None:
    with pytest.raises(InvalidRequestError, match="prompts has 1 prompt; the least is 2"):
        submit(["one"])
    with pytest.raises(InvalidRequestError, match="prompts names no prompt set"):
        submit(prompts="ps_none")
    with pytest.raises(ValidationError, match="unknown"):
        submit(unknown=1)
