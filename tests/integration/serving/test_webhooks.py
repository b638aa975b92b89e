"""`excise webhooks` against a running service, and the messages about versions and aliases."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from excise.cli.app import app
from tests.integration.serving.conftest import Stage

ALIAS = "tiny@hooked"
ADDRESS = "https://93.184.216.34/hook"  # public, but nothing is sent because no deliverer runs here

Run = Callable[..., str]


@pytest.fixture
def run(
    stage: Stage, tenant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """A function that runs a command, checks that it succeeds, and returns its standard output."""
    monkeypatch.setenv("EXCISE_API_KEY", stage.make_key(tenant, "admin"))
    monkeypatch.setenv("EXCISE_URL", stage.url)

    def run_command(*arguments: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app(["webhooks", *arguments])
        printed = capsys.readouterr()
        assert not ended.value.code, printed.err
        return printed.out

    return run_command


def test_events_of_versions_and_aliases_are_sent(
    stage: Stage, client: httpx.Client, tenant: str, run: Run
) -> None:
    webhook = run("create", ADDRESS, "--description", "chat").split("\n")[0]
    first = stage.publish(client, tenant, "one", alias=ALIAS)
    stage.wait_for(client, first, "live")
    second = stage.publish(client, tenant, "two")
    stage.wait_for(client, second, "live")
    for path, body in (
        (f"aliases/{ALIAS}/promote", {"version": second}),
        (f"aliases/{ALIAS}/rollback", {}),
        (f"aliases/{ALIAS}/split", {"version": second, "percent": 10}),
        (f"aliases/{ALIAS}/split", {"percent": 0}),
        (f"versions/{second}/retire", {}),
    ):
        assert client.post(f"/v1/{path}", json=body).is_success
    found = json.loads(run("deliveries", webhook, "--limit", "100", "--json"))["data"]
    bodies = [json.loads(one["body"]) for one in reversed(found)]
    about = [(body["type"], body["data"].get("version")) for body in bodies]
    assert [kind for kind, version in about if version == first][:4] == [
        "version.published",
        "version.built",
        "version.live",
        "alias.promoted",
    ]
    assert [kind for kind, _ in about][-5:] == [
        "alias.promoted",
        "alias.rolled_back",
        "alias.split",
        "alias.split",
        "version.retired",
    ]
    promoted = next(
        body["data"]
        for body in bodies
        if body["type"] == "alias.promoted" and body["data"]["version"] == second
    )
    assert (promoted["alias"], promoted["from_version"]) == (ALIAS, first)


def test_every_command(run: Run) -> None:
    webhook, secret, _ = run("create", ADDRESS, "--event", "job.failed").split("\n")
    assert webhook in run("list")
    assert "events: job.failed" in run("show", webhook)
    rotated = run("rotate", webhook).split("\n")[1]
    assert rotated.startswith("whsec_")
    assert rotated != secret
    assert secret not in run("show", webhook, "--json")
    delivery = run("ping", webhook).strip()
    assert delivery in run("deliveries", webhook)
    assert run("retry", webhook, delivery).strip() == delivery
    assert "disabled" in run("change", webhook, "--status", "disabled")
    assert "It was switched off." in run("show", webhook)
    assert run("delete", webhook) == "deleted\n"
    assert webhook not in run("list")
