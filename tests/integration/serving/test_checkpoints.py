"""Whole checkpoints on several servers: switching without a gap, places, and retirement."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text

from excise.resources.serving import PublishRequest
from service.artifacts import open_artifact_store
from service.database import Database
from service.embedded import checkpoints as embedded_checkpoints
from service.embedded.checkpoints import GIBIBYTE, estimate_bytes, find_free_bytes
from service.errors import PoolFullError
from service.keys.operations import authenticate
from service.models import ModelVersion
from service.serving import transitions
from service.serving.aliases import promote, rollback
from service.serving.folders import delete_unneeded, hash_content
from service.serving.pools import ServingPool
from service.serving.publications import claim_publication, file_publication
from service.serving.publishing import publish_job
from service.serving.repository import list_kept_files
from service.serving.versions import retire
from service.settings import Settings
from tests.fake_vllm import compute_tokens, write_program
from tests.integration.serving.checkpoints import Hall, open_hall, switch_checkpoints
from tests.integration.serving.conftest import (
    BASE_MODEL,
    Stage,
    build_canary,
    build_settings,
    retire_everything,
)
from tests.integration.serving.scenarios import ALIAS, Prompt, Scene, Speaker

TOKENS = 8
PROMPTS = tuple((number, 3, 7) for number in range(8))
NAMES = ("one", "two", "three")


def speak(weights: str, prompt: Prompt) -> Sequence[int]:
    return compute_tokens(weights, prompt, TOKENS)


@pytest.fixture
def hall(database: Database, database_url: str, broker_url: str, tmp_path: Path) -> Iterator[Hall]:
    """A service on the embedded stack's checkpoint servers, which are fakes."""
    settings = build_settings(database_url, broker_url, tmp_path, "http://127.0.0.1:1", "key", 4)
    models = tmp_path / "models"
    (models / BASE_MODEL).mkdir(parents=True)
    (models / BASE_MODEL / "config.json").write_text(json.dumps({"model_type": "llama"}))
    environment = {"EXCISE_VLLM": str(write_program(tmp_path / "vllm"))}
    with open_hall(
        database, settings, tmp_path, models=models, environment=environment, checkpoints=2
    ) as opened:
        yield opened


def test_an_alias_moves_from_checkpoint_to_checkpoint_without_a_gap(
    hall: Hall, tenant: str
) -> None:
    stage = hall.stage
    speakers: dict[str, Speaker] = {}
    with stage.connect(tenant, "submit", "publish", "infer") as client:

        def publish(weights: str) -> str:
            version_id = stage.start_publishing(client, tenant, ALIAS)
            speakers[version_id] = partial(speak, weights)
            files = {"config.json": b"{}", "model.safetensors": weights.encode()}
            stage.file(version_id, files, None, build_canary(weights))
            return version_id

        scene = Scene(client, None, (), speakers, PROMPTS, TOKENS, 0.02)
        switch_checkpoints(hall, scene, publish, lambda: publish("none"), NAMES)


def test_without_memory_for_its_server_a_version_fails_with_a_remedy(
    hall: Hall, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_checkpoints, "find_free_bytes", lambda: 3 * GIBIBYTE // 2)
    stage = hall.stage
    with stage.connect(tenant, "submit", "publish", "infer") as client:
        version_id = stage.start_publishing(client, tenant, ALIAS)
        files = {"config.json": b"{}", "model.safetensors": b"one"}
        stage.file(version_id, files, None, build_canary("one"))
        error = stage.wait_for(client, version_id, "failed")["error"]
    assert "needs about 3.0 GiB of memory and 1.5 GiB are free" in error
    assert "Retire a version" in error
    assert hall.count_starts() == 0


def test_a_servers_memory_grows_with_its_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    without = estimate_bytes(tmp_path, 0)
    assert estimate_bytes(tmp_path, 2) == without + 2 * GIBIBYTE
    (tmp_path / "model-2.safetensors").write_bytes(bytes(500))
    assert estimate_bytes(tmp_path, 0) == without + 1000
    free = find_free_bytes()
    assert free is None or free > 0


class Ledger:
    """Versions of whole checkpoints in the database only, without service or server."""

    def __init__(self, database: Database, settings: Settings, tenant: str, servers: int) -> None:
        self.database = database
        self.stage = Stage("", None, database, open_artifact_store(settings.artifacts), settings)
        self.tenant = tenant
        self.pools = [
            ServingPool(
                name=f"whole-{number}",
                url="http://localhost:1",
                base_model=BASE_MODEL,
                kind="checkpoint",
            )
            for number in range(servers)
        ]
        with database.transaction() as session:
            key = self.stage.make_key(tenant, "publish")
            self.identity = authenticate(session, key)

    def publish(self, alias: str | None = ALIAS) -> str:
        """Return the id of a version that is live."""
        job_id = self.stage.make_job(self.tenant)
        with self.database.transaction() as session:
            request = PublishRequest(alias=alias)
            version_id = publish_job(
                session, self.identity, job_id, request, self.pools, self.stage.artifacts
            )[0].id
        stored = self.stage.artifacts.put_bytes(version_id.encode())
        with self.database.transaction() as session:
            claim = claim_publication(session, version_id, "worker", 30)
            assert claim is not None
            files = {"config.json": stored, "model.safetensors": stored}
            file_publication(session, version_id, claim.token, files, None, stored)
        with self.database.transaction() as session:
            transitions.give_name(session, version_id, version_id)
            assert transitions.mark_live(session, version_id, version_id, 16)
        return version_id

    def read(self, version_id: str) -> ModelVersion:
        with self.database.transaction() as session:
            found = session.get(ModelVersion, version_id)
            assert found is not None
            return found

    def roll_back(self) -> None:
        with self.database.transaction() as session:
            tenant_id, key_id = self.identity.tenant_id, self.identity.key_id
            rollback(session, tenant_id, ALIAS, key_id=key_id)


@pytest.fixture
def ledger(database: Database, settings: Settings, tenant: str) -> Iterator[Ledger]:
    yield Ledger(database, settings, tenant, 3)
    retire_everything(database)


def test_versions_that_an_alias_left_are_retired_unless_it_can_go_back(
    ledger: Ledger,
) -> None:
    by_id = ledger.publish(alias=None)
    first, second = ledger.publish(), ledger.publish()
    assert [ledger.read(v).status for v in (by_id, first, second)] == ["live"] * 3
    with pytest.raises(PoolFullError, match="hold 3 at most") as caught:
        ledger.publish()
    for said in (f"{by_id} is live", f"go back to {first}", f"{second} answers for {ALIAS}"):
        assert said in caught.value.message
    with ledger.database.transaction() as session:
        tenant_id, key_id = ledger.identity.tenant_id, ledger.identity.key_id
        retire(session, tenant_id, by_id, key_id=key_id)
    third = ledger.publish()
    assert {ledger.read(v).pool for v in (second, third)} < {pool.name for pool in ledger.pools}
    statuses = [ledger.read(v).status for v in (first, second, third)]
    assert statuses == ["retired", "live", "live"]


def test_after_a_rollback_the_version_left_makes_room_if_needed(
    ledger: Ledger,
) -> None:
    first, second = ledger.publish(), ledger.publish()
    ledger.roll_back()
    assert ledger.read(second).status == "live"
    kept = ledger.publish(alias=None)
    fourth = ledger.publish(alias=None)
    statuses = [ledger.read(v).status for v in (first, second, kept, fourth)]
    assert statuses == ["live", "retired", "live", "live"]


def test_another_alias_keeps_a_version_that_one_has_left(ledger: Ledger) -> None:
    first = ledger.publish()
    with ledger.database.transaction() as session:
        identity = ledger.identity
        promote(session, identity.tenant_id, "tiny@staging", first, key_id=identity.key_id)
    second, third = ledger.publish(), ledger.publish()
    assert [ledger.read(v).status for v in (first, second, third)] == ["live"] * 3


def test_another_tenants_versions_are_counted_but_not_named(
    ledger: Ledger, database: Database, settings: Settings
) -> None:
    made = [ledger.publish(alias=None) for _ in range(3)]
    stranger = Ledger(database, settings, f"{ledger.tenant}-2", 3)
    with pytest.raises(PoolFullError, match="3 more") as caught:
        stranger.publish()
    assert not any(version_id in caught.value.message for version_id in made)


def test_folders_are_deleted_once_nothing_needs_their_content(
    ledger: Ledger, tmp_path: Path
) -> None:
    served = tmp_path / "served"
    live, old, recent = (ledger.publish(alias=None) for _ in range(3))
    folders = {v: served / hash_content(ledger.read(v).files) for v in (live, old, recent)}
    for folder in (*folders.values(), served / ("0" * 64), served / "kept"):
        folder.mkdir(parents=True)
    with ledger.database.transaction() as session:
        statement = text(
            "UPDATE model_versions SET status = 'retired', "
            "ended_at = now() - :age * interval '1 s' WHERE id = :id"
        )
        for version_id, age in ((old, 700), (recent, 30)):
            session.execute(statement, {"id": version_id, "age": age})
    made_meanwhile = served / ("1" * 64)

    def find_needed() -> Sequence[Mapping[str, str]]:
        made_meanwhile.mkdir()
        with ledger.database.transaction() as session:
            return list_kept_files(session, 600)

    deleted = delete_unneeded(served, find_needed)
    assert set(deleted) == {folders[old].name, "0" * 64}
    assert {path.name for path in served.iterdir()} == {
        folders[live].name,
        folders[recent].name,
        made_meanwhile.name,
        "kept",
    }
    assert delete_unneeded(tmp_path / "nothing", list) == []
