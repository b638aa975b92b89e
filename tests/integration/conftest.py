"""What all integration tests share."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from service.leases import operations


@pytest.fixture(autouse=True)
def long_running_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let leases see a database server that was started long ago, unlike that of the tests.

    Leases that tests let run out would otherwise seem to have ended in an outage.
    """
    long_ago = datetime(2000, 1, 1, tzinfo=UTC)
    monkeypatch.setattr(operations, "fetch_server_start", lambda _: long_ago)
