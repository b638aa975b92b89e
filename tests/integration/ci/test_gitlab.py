"""The GitLab component, run by gitlab-ci-local in this machine's shell."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from tests.integration.cli.warm_command import ROOT
from tests.unit.excise.cli.test_ci import Host
from tests.unit.excise.outgoing.servers import serve

TOKEN = "glpat-0123456789abcdef"
PIPELINE = """\
include:
  - local: excise/deploy/ci/gitlab/templates/excise.yml
    inputs:
      install: 'PATH="COMMAND:$PATH"'
      model: models/worse
      against: models/base
"""


@pytest.fixture
def runners() -> Path:
    """The folder made by install_runners.sh."""
    folder = Path(os.environ.get("EXCISE_CI_RUNNERS", "/nonexistent"))
    if not (folder / "bin" / "gitlab-ci-local.js").exists():
        pytest.skip(
            "EXCISE_CI_RUNNERS names no folder made by tests/integration/ci/"
            "install_runners.sh, which has gitlab-ci-local, node and rsync"
        )
    return folder


def test_a_fine_tune_that_got_worse_turns_the_pipeline_red(
    repository: Path, command: str, runners: Path
) -> None:
    shutil.copytree(ROOT / "deploy", repository / "excise" / "deploy")
    pipeline = PIPELINE.replace("COMMAND", str(Path(command).parent))
    (repository / ".gitlab-ci.yml").write_text(pipeline)
    for arguments in (
        ("init", "-q"),
        ("remote", "add", "origin", "git@gitlab.example:team/model.git"),
        ("add", "-A"),
        ("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "all"),
    ):
        subprocess.run(["git", *arguments], cwd=repository, check=True)
    host = Host([])
    with serve(host.answer) as server:
        variables = {
            "GITLAB_CI": "true",  # gitlab-ci-local sets it to false
            "CI_MERGE_REQUEST_IID": "5",
            "CI_API_V4_URL": f"http://127.0.0.1:{server.port}",
            "EXCISE_GITLAB_TOKEN": TOKEN,
            "CI_JOB_URL": "https://gitlab.example/team/model/-/jobs/7",
            "OMP_NUM_THREADS": "1",
        }
        given = [part for name in variables for part in ("--variable", f"{name}={variables[name]}")]
        result = subprocess.run(
            [
                "node",
                str(runners / "bin" / "gitlab-ci-local.js"),
                "--force-shell-executor",
                "--no-color",
                *given,
                "excise",
            ],
            cwd=repository,
            env={**os.environ, "PATH": f"{runners / 'bin'}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
    printed = result.stdout + result.stderr
    assert "FAIL 100" in printed
    assert TOKEN not in printed
    assert len(host.comments) == 1, printed
    comment = host.comments[0]
    assert comment["body"].startswith("<!-- excise-comment:excise -->\n\n### ❌")
    assert "https://gitlab.example/team/model/-/jobs/7" in comment["body"]
    found = list(repository.rglob("gate.xml"))
    assert found, "JUnit is among the artifacts"


@pytest.mark.parametrize(
    ("end", "code", "posted"),
    [
        ("exit 0", 0, "ci post out/gate.json"),
        ("exit 100", 100, "ci post out/gate.json"),
        ("exit 1", 1, "ci post --id"),
        ("kill -KILL $$", 137, "ci post --id"),
        ("kill -SEGV $$", 139, "ci post --id"),
        ("kill -TERM $$", 143, None),
        ("kill -INT $$", 130, None),
    ],
)
def test_only_a_verdict_is_posted_with_its_report(
    tmp_path: Path, end: str, code: int, posted: str | None
) -> None:
    """A run whose memory ran out says so; one that was cancelled leaves the comment alone."""
    ended, calls = run_script(tmp_path, end)
    assert ended.returncode == code, ended.stderr
    assert [call for call in calls if call.startswith("ci post")] == calls[1:]
    assert [call[: len(posted or "")] for call in calls[1:]] == ([posted] if posted else [])


@pytest.mark.parametrize(
    ("job", "comment_id", "expected"),
    [("gate: small", "", "gate--small"), ("é/b", "", "---b"), ("gate", "mine", "mine")],
)
def test_two_jobs_do_not_write_the_same_comment(
    tmp_path: Path, job: str, comment_id: str, expected: str
) -> None:
    given = {"CI_JOB_NAME": job, "EXCISE_COMMENT_ID": comment_id}
    _, calls = run_script(tmp_path, "exit 0", given)
    assert calls[1].startswith(f"ci post out/gate.json --id {expected} --link ")


def test_a_folder_that_cannot_be_cleared_leaves_no_earlier_verdict_in_the_comment(
    tmp_path: Path,
) -> None:
    (tmp_path / "out" / "gate.json" / "kept").mkdir(parents=True)
    ended, calls = run_script(tmp_path, "exit 1")
    assert ended.returncode == 1
    assert [call[:12] for call in calls[1:]] == ["ci post --id"]


def run_script(
    tmp_path: Path, end: str, more: Mapping[str, str] | None = None
) -> tuple[subprocess.CompletedProcess[bytes], list[str]]:
    """Run the job's script with an `excise` whose gate ends like this; return what it called."""
    template = ROOT / "deploy" / "ci" / "gitlab" / "templates" / "excise.yml"
    _, jobs = yaml.safe_load_all(template.read_text())
    ((_, job),) = jobs.items()
    (script,) = job["script"]
    excise = tmp_path / "excise"
    excise.write_text(
        '#!/bin/sh\necho "$@" >> calls\n[ "$1" = gate ] || exit 0\n'
        f"mkdir -p out; touch out/gate.json\n{end}\n"
    )
    excise.chmod(0o755)
    given = {name: "" for name in job["variables"] if name.startswith("EXCISE_")}
    given |= {"EXCISE_MODE": "gate", "EXCISE_OUTPUT": "out", "EXCISE_COMMENT": "true"}
    given |= {"CI_MERGE_REQUEST_IID": "5", "CI_JOB_URL": "https://gitlab.example/-/jobs/7"}
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **given, **(more or {})}
    ended = subprocess.run(
        ["sh", "-euc", script], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    return ended, (tmp_path / "calls").read_text().splitlines()
