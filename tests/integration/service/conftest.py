"""A running application over a real database and broker, and the rows that tests start from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from redis import Redis

from service.app import create_app
from service.database import Database
from service.keys.operations import create_tenant_key
from service.models import Job, OutboxMessage, Shard, new_id
from service.settings import Settings

CALLER = ("203.0.113.7", 50_000)
"""Address and port of `app_client`."""


def build_checkpoint(folder: Path, **config: Any) -> Path:
    """Return a folder that passes every check which does not read tensors."""
    folder.mkdir(parents=True)
    content = {"architectures": ["LlamaForCausalLM"], **config}
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(b"\0" * 8)
    return folder


@pytest.fixture
def model_root(tmp_path: Path) -> Path:
    """A model root with one good checkpoint, `tiny`."""
    root = tmp_path / "models"
    build_checkpoint(root / "tiny")
    return root


@pytest.fixture
def settings(database_url: str, broker_url: str, tmp_path: Path, model_root: Path) -> Settings:
    """Settings of a service whose relay only runs when a test calls it."""
    return Settings(
        database_url=SecretStr(database_url),
        broker_url=SecretStr(broker_url),
        artifacts=str(tmp_path / "artifacts"),
        model_roots=(model_root,),
        relay_enabled=False,
        stream_poll_seconds=0.05,
    )


@pytest.fixture
def app_client(settings: Settings) -> Iterator[TestClient]:
    """A client without an API key."""
    app = create_app(settings)
    with TestClient(app, raise_server_exceptions=False, client=CALLER) as client:
        yield client


@pytest.fixture
def make_key(database: Database) -> Callable[..., str]:
    """A function that makes a key of a tenant."""

    def make(tenant: str | None = None, scopes: tuple[str, ...] = ("submit",)) -> str:
        with database.transaction() as session:
            return create_tenant_key(session, tenant or new_id("tenant"), "test", scopes)

    return make


@pytest.fixture
def client(app_client: TestClient, make_key: Callable[..., str]) -> TestClient:
    """A client with a fresh tenant's key."""
    app_client.headers["Authorization"] = f"Bearer {make_key()}"
    return app_client


@pytest.fixture
def broker(broker_url: str) -> Iterator[Redis]:
    """The broker, emptied before and after the test."""
    with Redis.from_url(broker_url) as connection:
        connection.flushall()
        yield connection
        connection.flushall()


def upload(client: TestClient, count: int, name: str = "set") -> str:
    """Return the id of a new prompt set with that many prompts."""
    content = "\n".join(f"{name} prompt {index}" for index in range(count))
    response = client.post(
        f"/v1/prompt-sets?name={name}", content=content, headers={"Content-Type": "text/plain"}
    )
    assert response.status_code in {200, 201}, response.text
    return str(response.json()["id"])


def build_spec(client: TestClient, **changes: Any) -> dict[str, Any]:
    """Return a valid job spec, after uploading its prompt sets."""
    behaviour = {
        "name": "repetition",
        "kind": "repetition",
        "prompts": upload(client, 8, "undesired"),
    }
    return {
        "kind": "correction",
        "model": "tiny",
        "behaviours": [behaviour],
        "reference": upload(client, 16, "reference"),
        **changes,
    }


def submit(client: TestClient, **changes: Any) -> dict[str, Any]:
    """Return a newly submitted job."""
    response = client.post("/v1/jobs", json=build_spec(client, **changes))
    assert response.status_code == 201, response.text
    body: dict[str, Any] = response.json()
    return body


def clear_jobs(database: Database) -> None:
    """Leave no open job, shard or unsent message behind for the next test."""
    with database.transaction() as session:
        session.query(Job).filter(Job.status.in_(["queued", "running"])).update(
            {"status": "cancelled"}
        )
        session.query(OutboxMessage).delete()
        session.query(Shard).delete()
