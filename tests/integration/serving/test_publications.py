"""Building a version is fenced like a job: redelivery, dead workers, lost messages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from excise.resources.serving import PublishRequest
from service.artifacts import open_artifact_store
from service.broker import Broker
from service.database import Database
from service.errors import ArtifactCorruptError, LeaseLostError
from service.keys.operations import authenticate
from service.leases import operations as leases
from service.models import ModelVersion, OutboxMessage
from service.outbox import PUBLISH_TASK, send_unsent
from service.relay import Relay
from service.serving.folders import hash_content, place_files
from service.serving.publications import (
    VERSIONS,
    check_file_names,
    claim_publication,
    fail_publication,
    file_publication,
)
from service.serving.publishing import publish_job
from service.settings import Settings
from tests.fake_vllm import RunningVllm
from tests.integration.serving.conftest import Stage, retire_everything

HASH = "a" * 64
FILES = {"adapter_config.json": HASH, "adapter_model.safetensors": HASH}


@pytest.fixture
def version_id(
    database: Database, settings: Settings, vllm: RunningVllm, tenant: str
) -> Iterator[str]:
    """A version that waits for a worker; no service runs."""
    artifacts = open_artifact_store(settings.artifacts)
    stage = Stage("", vllm, database, artifacts, settings)
    job_id, key = stage.make_job(tenant), stage.make_key(tenant, "publish")
    with database.transaction() as session:
        identity = authenticate(session, key)
        pools = settings.serving_pools
        made, _ = publish_job(session, identity, job_id, PublishRequest(), pools, artifacts)
    yield made.id
    retire_everything(database)
    with database.transaction() as session:
        session.query(OutboxMessage).delete()


def claim(
    database: Database, version_id: str, seconds: float = 30, worker: str = "w"
) -> int | None:
    with database.transaction() as session:
        found = claim_publication(session, version_id, worker, seconds)
    return None if found is None else found.token


def find_status(database: Database, version_id: str) -> str:
    with database.transaction() as session:
        version = session.get(ModelVersion, version_id)
        assert version is not None
        return str(version.status)


def take_messages(database: Database) -> list[tuple[str, str]]:
    sent: list[tuple[str, str]] = []
    with database.transaction() as session:
        send_unsent(session, lambda task, row_id: sent.append((task, row_id)))
    return sent


def test_the_message_carries_the_id_alone(database: Database, version_id: str) -> None:
    assert take_messages(database) == [(PUBLISH_TASK, version_id)]
    with database.transaction() as session:
        claimed = claim_publication(session, version_id, "w", 30)
    assert claimed is not None
    assert (claimed.base_model, claimed.max_rank, claimed.attempt) == ("tiny", 16, 1)
    assert claimed.spec.behaviours[0].name == "a"


def test_a_redelivered_message_finds_nothing_to_do(database: Database, version_id: str) -> None:
    token = claim(database, version_id)
    assert claim(database, version_id) is None
    with database.transaction() as session:
        file_publication(session, version_id, token or 0, FILES, 4, HASH)
    assert claim(database, version_id) is None
    assert find_status(database, version_id) == "built"
    assert claim(database, "mv_" + "0" * 24) is None


def test_a_silent_worker_can_no_longer_write(database: Database, version_id: str) -> None:
    old = claim(database, version_id, seconds=-1)
    new = claim(database, version_id)
    assert old is not None
    assert new is not None
    for write in (
        lambda session: leases.renew(session, VERSIONS, version_id, old, 30),
        lambda session: file_publication(session, version_id, old, FILES, 4, HASH),
        lambda session: fail_publication(session, version_id, old, "x"),
        lambda session: leases.release(session, VERSIONS, version_id, old, "x"),
    ):
        with pytest.raises(LeaseLostError), database.transaction() as session:
            write(session)
    with database.transaction() as session:
        leases.renew(session, VERSIONS, version_id, new, 30)
        assert leases.sweep(session, VERSIONS, 30, 3) == []


def test_the_sweeper_sends_again_and_finally_gives_up(database: Database, version_id: str) -> None:
    take_messages(database)
    for attempt in (1, 2, 3):
        assert claim(database, version_id, seconds=-1) is not None
        with database.transaction() as session:
            assert leases.sweep(session, VERSIONS, 30, 3) == [version_id]
        expected = [(PUBLISH_TASK, version_id)] if attempt < 3 else []
        assert take_messages(database) == expected
    assert find_status(database, version_id) == "failed"


def test_an_uncounted_attempt(database: Database, version_id: str) -> None:
    for _ in range(5):
        token = claim(database, version_id)
        assert token is not None
        with database.transaction() as session:
            leases.release(session, VERSIONS, version_id, token, "told to stop", counts=False)
    assert find_status(database, version_id) == "queued"


def test_a_lost_message_is_sent_again(
    database: Database, settings: Settings, version_id: str
) -> None:
    take_messages(database)
    with database.transaction() as session:
        session.execute(text("UPDATE outbox SET sent_at = now() - interval '1 hour'"))
        session.execute(text("UPDATE model_versions SET queued_at = now() - interval '1 hour'"))
    broker = Broker(settings.broker_url.get_secret_value())
    Relay(database, broker, settings).sweep_once()
    broker.close()
    assert take_messages(database) == [(PUBLISH_TASK, version_id)]


def test_invalid_publications_are_not_stored(database: Database, version_id: str) -> None:
    token = claim(database, version_id)
    assert token is not None
    for files, rank in (
        ({**FILES, "../../x.json": HASH}, 4),
        ({"adapter_config.json": HASH}, 4),
        (FILES, 17),
        (FILES, 0),
        ({"config.json": HASH, "a/b.safetensors": HASH}, None),
        ({"config.json": HASH, "pytorch_model.bin": HASH}, None),
        ({"config.json": HASH}, None),
    ):
        with (
            pytest.raises(ValueError, match=r"An adapter has|rank|A checkpoint"),
            database.transaction() as session,
        ):
            file_publication(session, version_id, token, files, rank, HASH)
    assert find_status(database, version_id) == "building"


@pytest.mark.parametrize(
    "name", ["../config.json", "a/config.json", ".hidden.json", "x.bin", "x.pt", "x.py", "", "json"]
)
def test_names_that_checkpoint_files_must_not_have(name: str) -> None:
    good = {"config.json": HASH, "model-00001-of-00002.safetensors": HASH}
    check_file_names("checkpoint", good)
    with pytest.raises(ValueError, match="may not hold"):
        check_file_names("checkpoint", {**good, name: HASH})


def test_a_folder_is_complete_or_absent_and_checked_each_time(settings: Settings) -> None:
    artifacts = open_artifact_store(settings.artifacts)
    files = {
        "adapter_config.json": artifacts.put_bytes(b"{}"),
        "adapter_model.safetensors": artifacts.put_bytes(b"weights"),
    }
    root = settings.serving_folder
    folder = place_files(artifacts, "adapter", files, root)
    assert folder == root / hash_content(files)
    assert place_files(artifacts, "adapter", files, root) == folder
    assert [path.name for path in root.iterdir()] == [folder.name]
    assert (folder / "adapter_model.safetensors").read_bytes() == b"weights"

    (folder / "adapter_model.safetensors").write_bytes(b"other")
    with pytest.raises(ArtifactCorruptError, match="Delete it"):
        place_files(artifacts, "adapter", files, root)
    with pytest.raises(ValueError, match="exactly the files"):
        place_files(artifacts, "adapter", {"../../x": files["adapter_config.json"]}, root)
    missing = {**files, "adapter_model.safetensors": "b" * 64}
    with pytest.raises(Exception, match="There is no artifact"):
        place_files(artifacts, "adapter", missing, root)
    assert [path.name for path in root.iterdir()] == [folder.name]
