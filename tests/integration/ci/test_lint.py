"""Linters of GitHub and GitLab accept the action, the workflow and the component."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.integration.cli.warm_command import ROOT

CI = ROOT / "deploy" / "ci"


def find_program(name: str) -> str:
    """Return the linter from this Python's folder, or from the PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; it comes with the extra dev")
    return found


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository that uses the action as described in the guide."""
    (tmp_path / ".git").mkdir()
    workflows = tmp_path / ".github" / "workflows"
    workflows.mkdir(parents=True)
    shutil.copy(CI / "github" / "workflow.yml", workflows / "model.yml")
    shutil.copytree(CI, tmp_path / "excise" / "deploy" / "ci")
    return tmp_path


def run(*arguments: str, cwd: Path) -> None:
    result = subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_actionlint_finds_nothing_in_the_workflow(repository: Path) -> None:
    """It also checks the inputs against the action's."""
    run(find_program("actionlint"), "-no-color", cwd=repository)


def test_zizmor_finds_nothing_in_workflow_and_action(repository: Path) -> None:
    paths = (".github/workflows/model.yml", "excise/deploy/ci/github/action.yml")
    run(find_program("zizmor"), "--offline", "--no-progress", *paths, cwd=repository)


def test_the_action_matches_githubs_schema() -> None:
    program = find_program("check-jsonschema")
    action = str(CI / "github" / "action.yml")
    run(program, "--builtin-schema", "vendor.github-actions", action, cwd=ROOT)


def test_the_component_matches_gitlabs_schema(tmp_path: Path) -> None:
    header, body = (CI / "gitlab" / "templates" / "excise.yml").read_text().split("\n---\n")
    inputs = yaml.safe_load(header)["spec"]["inputs"]
    defaults = {name: str((one or {}).get("default", "true")) for name, one in inputs.items()}
    filled = re.sub(r"\$\[\[ inputs\.([a-z-]+) \]\]", lambda found: defaults[found[1]], body)
    (tmp_path / "pipeline.yml").write_text(filled)
    program = find_program("check-jsonschema")
    run(program, "--builtin-schema", "vendor.gitlab-ci", "pipeline.yml", cwd=tmp_path)


def test_every_third_party_action_is_pinned() -> None:
    for path in (CI / "github").glob("*.yml"):
        for used in re.findall(r"uses: (\S+)", path.read_text()):
            assert used.startswith("./") or re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", used), used
