"""A service with a pool on a fake vLLM, and versions as a worker would have built them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from pydantic import SecretStr

from service.artifacts import ArtifactStore, open_artifact_store
from service.database import Database
from service.jobs.execution import attach_artifact, claim_job, finish_job
from service.keys.operations import create_tenant_key
from service.models import Job, ModelVersion, Tenant, new_id
from service.serving.canary import CanaryDocument, CanaryPrompt
from service.serving.pools import ServingPool
from service.serving.publications import claim_publication, file_publication
from service.settings import Settings
from tests.fake_vllm import BASE_KEY, RunningVllm, compute_tokens, run_fake_vllm
from tests.integration.service.test_server import serve
from tests.unit.excise.cli.fake_service import build_report

BASE_MODEL = "tiny"
CANARY_TOKENS = 6


def build_canary(weights: str) -> bytes:
    """Return what a worker would record about a model with these weights."""
    prompts = []
    for number in range(16):
        ids = [number + 1, number + 2, 7]
        prompts.append(
            CanaryPrompt(
                prompt_token_ids=tuple(ids),
                max_tokens=CANARY_TOKENS,
                base_token_ids=tuple(compute_tokens(BASE_KEY, ids, CANARY_TOKENS)),
                corrected_token_ids=tuple(compute_tokens(weights, ids, CANARY_TOKENS)),
            )
        )
    document = CanaryDocument(dtype="float32", tolerance=0.0, prompts=tuple(prompts))
    return document.model_dump_json().encode()


def build_abilities_report(rights: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Return a report on abilities, with the share of right answers before and after.

    The limit is five points; an ability with less than a tenth right before is not gated.
    """
    abilities = [
        {
            "name": sentence.replace(" ", "_"),
            "area": "copying",
            "sentence": sentence,
            "items": 60,
            "nats_before": 0.5,
            "nats_change": before - after,
            "nats_interval": (0.0, 1.0),
            "accuracy_before": before,
            "accuracy_after": after,
            "accuracy_interval": (-1.0, 0.0),
            "max_nats_rise": None,
            "max_accuracy_fall": 0.05,
            "is_gated": before >= 0.1,
            "within": before < 0.1 or before - after <= 0.05,
        }
        for sentence, (before, after) in rights.items()
    ]
    return build_report("passed") | {"abilities": abilities}


@dataclass
class Stage:
    """A running service and the fake vLLM behind it, with the actions of the tests."""

    url: str
    vllm: Any
    database: Database
    artifacts: ArtifactStore
    settings: Settings

    def make_key(self, tenant: str, *scopes: str) -> str:
        """Return a new key of the tenant."""
        with self.database.transaction() as session:
            return create_tenant_key(session, tenant, "test", scopes)

    def connect(self, tenant: str, *scopes: str) -> httpx.Client:
        """Return a client with such a key."""
        key = self.make_key(tenant, *scopes)
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)

    def make_job(
        self,
        tenant: str,
        verdict: str = "passed",
        *,
        report: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> str:
        """Return a finished correction job with a patch and the given report.json."""
        key = self.make_key(tenant, "submit", "publish")
        files = {"patch.safetensors": new_id("patch").encode()}
        if report is not None:
            files["report.json"] = json.dumps(report).encode()
        stored = {name: self.artifacts.put_bytes(content) for name, content in files.items()}
        with self.database.transaction() as session:
            job = _build_job(session, tenant, key, **changes)
            session.add(job)
        with self.database.transaction() as session:
            claim = claim_job(session, job.id, "worker", 30)
            assert claim is not None
            for name, sha256 in stored.items():
                attach_artifact(session, job.id, claim.token, name, sha256, 1, "x/y")
            status = "succeeded" if verdict == "passed" else "rejected"
            finish_job(session, job.id, claim.token, status, verdict)
        return job.id

    def file(
        self, version_id: str, files: Mapping[str, bytes], rank: int | None, canary: bytes
    ) -> None:
        """Do what the worker does, with the given files and canary."""
        stored = {name: self.artifacts.put_bytes(content) for name, content in files.items()}
        document = self.artifacts.put_bytes(canary)
        with self.database.transaction() as session:
            claim = claim_publication(session, version_id, "worker", 30)
            assert claim is not None
            file_publication(session, version_id, claim.token, stored, rank, document)

    def build(self, version_id: str, weights: str, canary: bytes | None = None) -> None:
        """Store the version with these weights, as an adapter for the fake vLLM."""
        content = bytes(8) + weights.encode()  # a header of length 0, as the fake reads it
        files = {"adapter_config.json": b"{}", "adapter_model.safetensors": content}
        self.file(version_id, files, 4, canary or build_canary(weights))

    def start_publishing(self, client: httpx.Client, tenant: str, alias: str | None = None) -> str:
        """Return the id of a new version, which waits to be built."""
        body = {"alias": alias} if alias else {}
        answer = client.post(f"/v1/models/{self.make_job(tenant)}/publish", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def publish(
        self,
        client: httpx.Client,
        tenant: str,
        weights: str,
        alias: str | None = None,
        canary: bytes | None = None,
    ) -> str:
        """Return the id of a new version with these weights, published and built."""
        version_id = self.start_publishing(client, tenant, alias)
        self.build(version_id, weights, canary)
        return version_id

    def wait_for_first(self, client: httpx.Client) -> dict[str, Any]:
        """Return the only version, once there is one."""
        for _ in range(500):
            if found := client.get("/v1/versions").json()["data"]:
                break
        (version,) = found
        return cast("dict[str, Any]", version)

    def wait_for(self, client: httpx.Client, version_id: str, *statuses: str) -> dict[str, Any]:
        """Return the version, once it has one of these states."""
        deadline = time.monotonic() + 60
        while True:
            version: dict[str, Any] = client.get(f"/v1/versions/{version_id}").json()
            if version["status"] in statuses:
                return version
            assert time.monotonic() < deadline, version
            time.sleep(0.02)


def _build_job(session: Any, tenant: str, key: str, **changes: Any) -> Job:
    """Return a queued correction job of the tenant."""
    from service.keys.repository import find_valid_key

    found = find_valid_key(session, hashlib.sha256(key.encode()).hexdigest())
    assert found is not None
    assert session.get(Tenant, found.tenant_id).name == tenant
    spec = {
        "kind": "correction",
        "model": BASE_MODEL,
        "behaviours": [{"name": "a", "kind": "repetition", "prompts": "ps_a"}],
        "reference": "ps_b",
    }
    values = {
        "id": new_id("job"),
        "tenant_id": found.tenant_id,
        "api_key_id": found.id,
        "kind": "correction",
        "model": BASE_MODEL,
        "spec": json.loads(json.dumps(spec)),
        "user_metadata": {},
    }
    return Job(**{**values, **changes})


@pytest.fixture
def vllm() -> Iterator[RunningVllm]:
    """A fake server."""
    with run_fake_vllm(api_key="between-us") as running:
        yield running


@contextmanager
def open_stage(
    database: Database, settings: Settings, vllm: Any, **changes: Any
) -> Iterator[Stage]:
    """Yield a running service whose settings have these changes."""
    chosen = settings.model_copy(update=changes)
    with serve(chosen) as (_, url):
        artifacts = open_artifact_store(chosen.artifacts)
        yield Stage(url, vllm, database, artifacts, chosen)


def build_settings(
    database_url: str, broker_url: str, folder: Path, url: str, api_key: str, max_slots: int
) -> Settings:
    """Return settings with one pool, on the server at `url`."""
    pool = ServingPool(
        name="main",
        url=url,
        base_model=BASE_MODEL,
        max_slots=max_slots,
        api_key=SecretStr(api_key),
    )
    return Settings(
        database_url=SecretStr(database_url),
        broker_url=SecretStr(broker_url),
        artifacts=str(folder / "artifacts"),
        relay_enabled=False,
        serving_pools=(pool,),
        serving_folder=folder / "served",
        reconcile_seconds=0.05,
        infer_burst=100_000,
        infer_requests_per_minute=1_000_000,
    )


@pytest.fixture
def settings(database_url: str, broker_url: str, tmp_path: Path, vllm: RunningVllm) -> Settings:
    """Settings with one pool of three places."""
    return build_settings(database_url, broker_url, tmp_path, vllm.url, "between-us", 4)


@pytest.fixture
def stage(database: Database, settings: Settings, vllm: RunningVllm) -> Iterator[Stage]:
    """A running service; after the test, none of its versions is wanted on a server."""
    with open_stage(database, settings, vllm) as opened:
        yield opened
    retire_everything(database)


def retire_everything(database: Database) -> None:
    """Leave no version behind for the next test."""
    with database.transaction() as session:
        session.query(ModelVersion).update({"status": "retired"})


@pytest.fixture
def tenant() -> str:
    """The name of a tenant of this test."""
    return new_id("tenant")


ClientMaker = Callable[..., httpx.Client]


@pytest.fixture
def client(stage: Stage, tenant: str) -> Iterator[httpx.Client]:
    """A client with every scope except admin."""
    with stage.connect(tenant, "submit", "publish", "infer") as opened:
        yield opened
