"""A secret that is shown only once: where it cannot be printed, that is told, with what to do."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from excise.cli.output import CommandError
from excise.cli.webhooks import _show_secret
from excise.resources.webhooks import NewWebhookView
from service.commands import keys

MADE = NewWebhookView.model_construct(id="wh_1", secret="whsec_12345678")


@contextmanager
def read_by_nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make standard output one whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        yield


def test_a_webhook_s_lost_secret_is_told_with_the_way_to_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = "Run: excise webhooks rotate wh_1"
    with read_by_nobody(monkeypatch), pytest.raises(CommandError, match=told) as lost:
        _show_secret(MADE, as_json=False)
    assert MADE.secret not in lost.value.message


def test_a_secret_is_printed_after_the_webhook_s_id(capsys: pytest.CaptureFixture[str]) -> None:
    _show_secret(MADE, as_json=False)
    assert capsys.readouterr().out == "wh_1\nwhsec_12345678\n"


def test_no_key_is_kept_that_could_not_be_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    @contextmanager
    def transaction() -> Iterator[None]:
        yield
        kept.append("a key")

    @contextmanager
    def open_database() -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(transaction=transaction)

    monkeypatch.setattr(keys, "open_database", open_database)
    monkeypatch.setattr(keys.operations, "create_tenant_key", lambda *arguments: "exc_12345678")
    told = "No key was made"
    with read_by_nobody(monkeypatch), pytest.raises(CommandError, match=told) as lost:
        keys.create_key()
    assert "exc_12345678" not in lost.value.message
    assert kept == []
