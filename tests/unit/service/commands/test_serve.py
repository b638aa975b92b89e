"""Publishing and asking, as `excise serve` does it, without a service."""

from __future__ import annotations

import ast
import json
import os
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from excise.cli.output import CommandError
from excise.resources.serving import VersionView
from service.commands import serve
from service.commands.serve import (
    ALIAS,
    Snippets,
    check_snippet_client,
    choose_prompt,
    find_corrected_job,
    publish,
)
from tests.unit.excise.cli.fake_service import build_report

PROMPT = 'It\'s "so" \\ much $HOME `date`\nand more'


def make_version(status: str, error: str | None = None) -> VersionView:
    return VersionView(
        id="mv_1",
        job="job_1",
        kind="checkpoint",
        base_model="tiny",
        pool="pool",
        status=status,
        error=error,
        verdict="passed",
        override=None,
        alias=None,
        rank=None,
        files=[],
        canary_sha256=None,
        created_at=datetime.now(UTC),
        built_at=None,
        live_at=None,
        ended_at=None,
    )


@dataclass
class FakeClient:
    """A service on which a version goes through `statuses`, and an alias that follows it."""

    statuses: list[str]
    target: str | None = None
    error: str | None = None
    published_for: list[str | None] = field(default_factory=list)
    promoted: list[str] = field(default_factory=list)

    def publish(self, job_id: str, alias: str | None = None) -> VersionView:
        self.published_for.append(alias)
        return make_version(self.statuses[0], self.error)

    def get_version(self, version_id: str) -> VersionView:
        if len(self.statuses) > 1:
            self.statuses.pop(0)
        if self.statuses[0] == "live" and self.published_for[-1] is not None:
            self.target = version_id
        return make_version(self.statuses[0], self.error)

    def find_alias_target(self, alias: str) -> str | None:
        return self.target

    def promote(self, alias: str, version_id: str) -> None:
        self.promoted.append(version_id)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_LOOK_SECONDS", 0.0)


def run(client: FakeClient) -> tuple[VersionView, list[str]]:
    said: list[str] = []
    job: Any = SimpleNamespace(id="job_1")
    return publish(client, job, said.append), said  # type: ignore[arg-type]


def test_a_first_version_is_published_for_the_alias_and_waited_for() -> None:
    client = FakeClient(["queued", "building", "built", "live"])
    version, said = run(client)
    assert version.status == "live"
    assert client.published_for == [ALIAS]
    assert client.promoted == []
    assert said == ["mv_1 is queued", "mv_1 is building", "mv_1 is built"]


def test_what_an_earlier_run_published_is_waited_for_and_not_promoted_again() -> None:
    client = FakeClient(["unavailable", "live"], target="mv_1")
    run(client)
    assert client.published_for == [None]
    assert client.promoted == []


def test_an_alias_that_points_elsewhere_is_moved_once_the_version_is_live() -> None:
    client = FakeClient(["queued", "live"], target="mv_0")
    run(client)
    assert client.promoted == ["mv_1"]


def test_a_version_that_fails_is_told_with_its_reason() -> None:
    with pytest.raises(CommandError, match="mv_1 is not served: the canary leaks"):
        run(FakeClient(["queued", "failed"], error="the canary leaks"))


def test_a_version_that_never_goes_live_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_LIVE_SECONDS", -1.0)
    with pytest.raises(CommandError, match="still queued"):
        run(FakeClient(["queued"]))


def make_job(number: int, kind: str, model: str, verdict: str | None) -> SimpleNamespace:
    return SimpleNamespace(id=f"job_{number}", kind=kind, model=model, verdict=verdict)


def test_the_latest_correction_of_the_model_that_passed_is_taken() -> None:
    pages = [
        [make_job(1, "circuit", "m", "passed"), make_job(2, "correction", "m", "rejected")],
        [make_job(3, "correction", "other", "passed"), make_job(4, "correction", "m", "passed")],
    ]

    def list_jobs(*, after: str | None, limit: int) -> SimpleNamespace:
        page = 0 if after is None else 1
        return SimpleNamespace(data=pages[page], has_more=page == 0)

    client: Any = SimpleNamespace(list_jobs=list_jobs, get_job=lambda job: SimpleNamespace(id=job))
    found = find_corrected_job(client, "m")
    assert found is not None
    assert found.id == "job_4"
    assert find_corrected_job(client, "none") is None


def test_the_held_out_prompt_with_the_largest_gain_is_asked() -> None:
    samples = [
        {"behaviour": "loops", "prompt": name, "before": "", "after": "", "split": split}
        | {"scores_before": {}, "scores_after": {}, "undesired_before": True}
        | {"undesired_after": False}
        for name, split in (("a", "tune"), ("c", "held_out"), ("b", "held_out"))
    ]
    report = json.dumps(build_report("passed") | {"samples": samples}).encode()
    client: Any = SimpleNamespace(fetch_report=lambda job_id: report)
    job: Any = SimpleNamespace(id="job_1")
    assert choose_prompt(client, job) == "c"


def make_snippets(tmp_path: Path) -> Snippets:
    fake = tmp_path / "curl"
    fake.write_text('#!/bin/sh\nfor last; do :; done\nprintf "%s" "$last"\n')
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment["EXCISE_API_KEY"] = "the-secret"
    return Snippets("http://127.0.0.1:1", "tiny", ALIAS, PROMPT, environment)


def test_no_snippet_shows_the_key_or_lets_the_shell_change_the_prompt(tmp_path: Path) -> None:
    snippets = make_snippets(tmp_path)
    assert "the-secret" not in snippets.curl + snippets.python + repr(snippets)
    printed = subprocess.run(
        ["bash", "-c", snippets.curl],
        env=snippets.environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    body = json.loads(printed)
    assert (body["model"], body["prompt"]) == (ALIAS, PROMPT)


def test_the_python_snippet_is_a_script_with_the_prompt_in_it(tmp_path: Path) -> None:
    tree = ast.parse(make_snippets(tmp_path).python)
    constants = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert {PROMPT, ALIAS, "tiny"} <= constants


def test_a_missing_client_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    check_snippet_client()
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CommandError, match="pip install openai"):
        check_snippet_client()
