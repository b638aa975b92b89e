"""The GitHub action, run step by step: verdicts, comment, caches, cancellation."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.ci.composite import Run, build_environment, run_action
from tests.integration.cli.warm_command import ROOT
from tests.integration.service.test_server import serve_in_process
from tests.unit.excise.cli.test_ci import Host
from tests.unit.excise.outgoing.servers import Server, serve

ACTION = ROOT / "deploy" / "ci" / "github"
TOKEN = "ghs_0123456789abcdef"
CACHE, UPLOAD = "actions/cache", "actions/upload-artifact"


@pytest.fixture
def host() -> Iterator[tuple[Host, Server]]:
    """GitHub's API with a pull request that has no comments."""
    found = Host([])
    with serve(found.answer) as server:
        yield found, server


def run(repository: Path, command: str, server: Server | None = None, **inputs: str) -> Run:
    event = repository / ".event.json"
    event.write_text(json.dumps({"pull_request": {"number": 5}} if server else {}))
    (repository / ".temp").mkdir(exist_ok=True)
    (repository / ".summary").unlink(missing_ok=True)
    environment = build_environment(
        repository,
        GITHUB_EVENT_PATH=str(event),
        FAKE_TOKEN=TOKEN,
        GITHUB_API_URL=f"http://127.0.0.1:{server.port}" if server else "http://127.0.0.1:9",
    )
    given = {"excise": command, **{name.replace("_", "-"): one for name, one in inputs.items()}}
    return run_action(ACTION, repository, given, environment)


def test_a_fine_tune_that_got_worse_turns_the_pipeline_red(
    repository: Path, command: str, host: tuple[Host, Server]
) -> None:
    found, server = host
    first = run(repository, command, server, model="models/base", against="models/base")
    assert not first.has_failed, first.log
    assert first.outputs["action"] == {
        "exit-code": "0",
        "report": "excise-output/gate.json",
    }
    assert "✅" in first.summary
    assert [one["body"].splitlines()[2][:5] for one in found.comments] == ["### ✅"]
    restore, save = sorted(name for name in first.used if name.startswith(CACHE))
    assert first.used[save]["key"].startswith(first.used[restore]["restore-keys"])

    second = run(repository, command, server, model="models/worse", against="models/base")
    assert second.codes["Judge"] == 100, second.log
    assert second.has_failed
    assert second.outputs["action"]["exit-code"] == "100"
    assert "taking the figures of models/base from the cache" in second.log
    assert not any("cache/save" in name for name in second.used), "nothing new to keep"
    assert "::error title=Excise%3A behaviour_share_rise%3Aslogan::" in second.log
    assert "❌" in second.summary
    (comment,) = found.comments
    assert comment["body"].startswith("<!-- excise-comment:excise -->\n\n### ❌")
    assert "https://github.example/team/model/actions/runs/77" in comment["body"]
    assert (repository / "excise-output" / "gate.xml").is_file()
    assert next(one for name, one in second.used.items() if name.startswith(UPLOAD)) == {
        "name": "excise",
        "path": "excise-output",
        "if-no-files-found": "ignore",
    }
    assert TOKEN not in second.log + comment["body"] + second.summary


def test_an_error_exits_with_1_and_leaves_no_old_verdict(repository: Path, command: str) -> None:
    (repository / "excise-output").mkdir()
    (repository / "excise-output" / "gate.json").write_text("{}")
    (repository / "gate.yaml").write_text("nonsense: 1")
    found = run(repository, command, model="models/base", against="models/base")
    assert found.codes["Judge"] == 1
    assert found.outputs["action"] == {"exit-code": "1", "report": ""}
    assert found.codes["Tell"] == 0
    assert "no verdict" in found.summary
    assert "::error title=Excise::there is no verdict" in found.log
    assert any(name.startswith(UPLOAD) for name in found.used)


@pytest.mark.parametrize(
    ("end", "code"), [("kill -KILL $$", 137), ("kill -SEGV $$", 139), ("exit 1", 1), ("exit 2", 2)]
)
def test_a_run_without_a_verdict_never_leaves_an_earlier_one(
    repository: Path, command: str, host: tuple[Host, Server], end: str, code: int
) -> None:
    """Such as one whose memory ran out; what it wrote before is no verdict."""
    found, server = host
    first = run(repository, command, server, model="models/base", against="models/base")
    assert "### ✅" in found.comments[0]["body"], first.log
    (repository / "kept.json").write_bytes((repository / "excise-output/gate.json").read_bytes())
    dying = write_dying(repository / "dying", command, end)
    second = run(repository, dying, server, model="models/base", against="models/base")
    assert second.outputs["action"] == {"exit-code": str(code), "report": ""}
    assert not any("cache/save" in name for name in second.used), "nothing was measured"
    assert list((repository / ".temp/excise/cache/figures").glob("*.figures"))
    assert not any(name.startswith(UPLOAD) for name in second.used), "of another run"
    (comment,) = found.comments
    assert "no verdict" in comment["body"]
    assert "✅" not in comment["body"] + second.summary


def test_a_wrong_mode_is_told(repository: Path, command: str, host: tuple[Host, Server]) -> None:
    found, server = host
    ended = run(repository, command, server, mode="gates")
    assert ended.codes["Judge"] == 1
    assert "no verdict" in found.comments[0]["body"]


def test_a_folder_that_cannot_be_cleared_leaves_no_earlier_verdict_in_the_comment(
    repository: Path, command: str, host: tuple[Host, Server]
) -> None:
    """Its files are an earlier run's, so that they are no artifact of this one."""
    found, server = host
    first = run(repository, command, server, model="models/base", against="models/base")
    assert any(name.startswith(UPLOAD) for name in first.used)
    report = repository / "excise-output" / "gate.json"
    report.unlink()
    (report / "kept").mkdir(parents=True)
    second = run(repository, command, server, model="models/base", against="models/base")
    assert second.outputs["action"] == {"exit-code": "1", "report": ""}
    assert "cannot be cleared" in second.log
    (comment,) = found.comments
    assert "no verdict" in comment["body"]
    assert not any(name.startswith(UPLOAD) for name in second.used)


def write_dying(path: Path, command: str, end: str) -> str:
    """Return an `excise` whose gate writes a file kept from another run, and ends like this."""
    path.write_text(
        f'#!/bin/sh\n[ "$1" = gate ] || exec {command} "$@"\n'
        f"cp kept.json excise-output/gate.json\n{end}\n"
    )
    path.chmod(0o755)
    return str(path)


def test_the_shell_does_not_interpret_inputs(repository: Path, command: str) -> None:
    hostile = '"; touch pwned; $(touch pwned) `touch pwned`'
    found = run(repository, command, model=hostile, against=hostile, comment_id=hostile)
    assert found.codes["Judge"] == 1
    assert not (repository / "pwned").exists()


def test_a_read_only_token_changes_no_verdict(repository: Path, command: str) -> None:
    found = run(
        repository, command, model="models/base", against="models/base", mode="gate", token=""
    )
    assert not found.has_failed, found.log


@pytest.fixture
def service(settings: Any, make_key: Any) -> Iterator[tuple[str, str]]:
    """A service without workers: its address, and a key."""
    with serve_in_process(settings) as (_, url):
        yield url, make_key()


def test_a_cancelled_run_cancels_its_job(
    repository: Path, command: str, service: tuple[str, str]
) -> None:
    url, key = service
    spec = {
        "kind": "correction",
        "model": "tiny",
        "behaviours": [{"name": "r", "kind": "repetition"}],
    }
    (repository / "job.json").write_text(json.dumps(spec))
    (repository / "bad.txt").write_text("\n".join(f"bad {number}" for number in range(8)))
    (repository / "good.txt").write_text("\n".join(f"good {number}" for number in range(16)))
    (repository / ".temp").mkdir()
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as client:
        found = run_action(
            ACTION,
            repository,
            {
                "excise": command,
                "mode": "job",
                "spec": "job.json",
                "url": url,
                "api-key": key,
                "prompts": "bad.txt",
                "reference": "good.txt",
                "comment": "false",
            },
            build_environment(repository),
            cancel_when=lambda: (repository / "excise-output" / "job-id").exists(),
        )
        (job,) = client.get("/v1/jobs").json()["data"]
    assert job["status"] == "cancelled", found.log
    assert f"job {job['id']} was cancelled" in found.log
    assert found.outputs["action"]["exit-code"] == "130"
    assert key not in found.log


def test_the_scripts_parse() -> None:
    for script in sorted(ACTION.glob("*.sh")):
        subprocess.run(["bash", "-n", str(script)], check=True)
