"""`excise publish`, `aliases`, `versions`, `pools` against a running service."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from excise.cli.app import app
from excise.client import Client
from excise.resources.serving import VersionView
from tests.integration.serving.conftest import Stage, build_abilities_report

ALIAS = "tiny@production"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    stage: Stage, tenant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """A function that runs a command and returns exit code, standard output and standard error."""
    monkeypatch.setenv("EXCISE_API_KEY", stage.make_key(tenant, "submit", "publish"))
    monkeypatch.setenv("EXCISE_URL", stage.url)

    def run_command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app(list(arguments))
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run_command


def test_from_publishing_to_retiring(
    stage: Stage, client: httpx.Client, tenant: str, run: Run
) -> None:
    code, out, _ = run("publish", stage.make_job(tenant), "--alias", ALIAS, "--reason", "first")
    assert code == 0
    first = out.strip()
    stage.build(first, "one")
    stage.wait_for(client, first, "live")
    second = stage.publish(client, tenant, "two")
    stage.wait_for(client, second, "live")

    code, out, err = run("aliases", "promote", ALIAS, second, "--reason", "better")
    assert (code, out) == (0, f"{ALIAS} {second}\n"), err
    assert run("aliases", "rollback", ALIAS)[1] == f"{ALIAS} {first}\n"
    assert run("aliases", "split", ALIAS, "10", second)[1] == f"{ALIAS} {first}, 10 % {second}\n"
    assert run("aliases", "split", ALIAS, "0")[1] == f"{ALIAS} {first}\n"
    code, out, _ = run("aliases", "list")
    assert ALIAS in out
    assert first in out
    code, out, _ = run("aliases", "events", ALIAS, "--json")
    kinds = [event["kind"] for event in json.loads(out)["data"]]
    assert kinds[-5:] == ["promote", "promote", "rollback", "split", "split"]
    assert "better" in run("aliases", "events", ALIAS)[1]

    assert run("versions", "retire", first)[0] == 1
    assert run("versions", "retire", second, "--reason", "old")[1] == "retired\n"
    code, out, _ = run("versions", "show", second)
    assert "old" in out
    assert json.loads(run("versions", "list", "--json")[1])["data"][0]["id"] == second
    assert "up" in run("pools")[1]


def test_waiting_for_a_failure_exits_with_1(
    stage: Stage, client: httpx.Client, tenant: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.vllm.state.says_wrong_tokens = True
    job = stage.make_job(tenant)
    version_id = client.post(f"/v1/models/{job}/publish").json()["id"]
    wait = Client.wait_until_settled

    def build_and_wait(asking: Client, *arguments: Any) -> VersionView:
        stage.build(version_id, "one")
        return wait(asking, *arguments)

    monkeypatch.setattr(Client, "wait_until_settled", build_and_wait)
    code, out, err = run("publish", job, "--wait")
    assert code == 1
    assert out.strip() == version_id
    assert "failed" in err
    assert "differs" in err


def test_refusals_are_shown(stage: Stage, tenant: str, run: Run) -> None:
    code, _, err = run("publish", stage.make_job(tenant, verdict="rejected"))
    assert code == 1
    assert "verdict is rejected" in err
    code, _, err = run("aliases", "rollback", ALIAS)
    assert code == 1
    assert "no such alias" in err


def test_a_versions_abilities_are_shown(
    stage: Stage, client: httpx.Client, tenant: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = build_abilities_report({"copy": (0.9, 0.9), "count on": (1.0, 1.0)})
    code, out, err = run("publish", stage.make_job(tenant, report=kept))
    assert (code, err) == (0, "abilities: 2 of 2 within limits\n")
    good = out.strip()
    lost = build_abilities_report({"copy": (0.9, 0.9), "count\x1b[2J on": (0.83, 0.03)})
    job = stage.make_job(tenant, "rejected", report=lost)
    monkeypatch.setenv("EXCISE_API_KEY", stage.make_key(tenant, "admin"))
    code, out, err = run("publish", job, "--override", "to look at it")
    assert code == 0
    bad, says = out.strip(), "abilities: 1 of 2 within limits. Lost: “count [2J on” (83 % → 3 %"
    assert err.startswith(says)

    assert "\nabilities: 2 of 2 within limits\n" in run("versions", "show", good)[1]
    assert f"\n{says}" in run("versions", "show", bad)[1]
    out = run("versions", "list")[1]
    assert "2 of 2" in out
    assert f"\n{bad} {says}" in out
    assert f"{good} abilities" not in out
    shown = json.loads(run("versions", "show", bad, "--json")[1])
    assert [one["sentence"] for one in shown["abilities"]["lost"]] == ["count\x1b[2J on"]
