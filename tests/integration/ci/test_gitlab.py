"""The GitLab component, run by gitlab-ci-local in this machine's shell."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

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
