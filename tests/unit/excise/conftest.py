from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from excise.cli import progress
from excise.client import Client
from tests.unit.excise.cli.fake_service import FakeService, serve


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def url(service: FakeService) -> Iterator[str]:
    with serve(service) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, "exc_test") as client:
        yield client


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the developer's own reaches a test; polling is quick."""
    for name in ("EXCISE_URL", "EXCISE_DATABASE_URL", "EXCISE_BROKER_URL", "EXCISE_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EXCISE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EXCISE_API_KEY", "exc_test")
    monkeypatch.setattr(progress, "_POLL_SECONDS", 0.02)
