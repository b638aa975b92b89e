"""A runner of composite actions that works like GitHub's: inputs, expressions, outputs, shells.

Steps that use other actions are recorded but not run; those are GitHub's own, in JavaScript.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_NAME = re.compile(r"\b(?:inputs|github|runner|steps)(?:\.[A-Za-z_][A-Za-z0-9_-]*)+|'[^']*'")


@dataclass
class Run:
    """One run of an action, and its results."""

    action: Path
    workspace: Path
    inputs: dict[str, str]
    environment: dict[str, str]
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    """Step → its outputs."""
    used: dict[str, dict[str, str]] = field(default_factory=dict)
    """Action that a step used → the inputs it was given."""
    codes: dict[str, int] = field(default_factory=dict)
    """Name of a step that was run → its exit status."""
    log: str = ""
    has_failed: bool = False
    is_cancelled: bool = False

    @property
    def summary(self) -> str:
        """The job's summary."""
        path = self.workspace / ".summary"
        return path.read_text() if path.exists() else ""


def run_action(
    folder: Path,
    workspace: Path,
    inputs: Mapping[str, str],
    environment: Mapping[str, str],
    cancel_when: Callable[[], bool] | None = None,
) -> Run:
    """Run the composite action in `folder`; once `cancel_when` returns true, cancel it."""
    action = yaml.safe_load((folder / "action.yml").read_text())
    unknown = set(inputs) - set(action["inputs"])
    assert not unknown, f"no such inputs: {unknown}"
    given = {
        name: str(described.get("default", "")) for name, described in action["inputs"].items()
    }
    run = Run(folder, workspace, {**given, **inputs}, dict(environment))
    run.inputs = {name: _expand(run, value) for name, value in run.inputs.items()}
    for number, step in enumerate(action["runs"]["steps"]):
        if _is_wanted(run, step):
            _run_step(run, number, step, cancel_when)
    run.outputs["action"] = {
        name: _expand(run, described["value"]) for name, described in action["outputs"].items()
    }
    return run


def _is_wanted(run: Run, step: Mapping[str, Any]) -> bool:
    condition = str(step.get("if", "success()"))
    if not re.search(r"\b(?:always|success|failure|cancelled)\(\)", condition):
        condition = f"success() && ({condition})"
    return bool(_evaluate(run, condition))


def _run_step(
    run: Run, number: int, step: Mapping[str, Any], cancel_when: Callable[[], bool] | None
) -> None:
    if "uses" in step:
        run.used[step["uses"]] = {
            name: _expand(run, str(value)) for name, value in step.get("with", {}).items()
        }
        return
    assert step["shell"] == "bash"
    script, output = run.workspace / f".step-{number}.sh", run.workspace / f".output-{number}"
    script.write_text(_expand(run, step["run"]))
    output.write_text("")
    environment = {
        **run.environment,
        **{name: _expand(run, str(value)) for name, value in step.get("env", {}).items()},
        "GITHUB_OUTPUT": str(output),
        "GITHUB_STEP_SUMMARY": str(run.workspace / ".summary"),
    }
    code, printed = _run_shell(run, script, environment, cancel_when)
    run.log += printed
    run.codes[step["name"]] = code
    run.has_failed |= code != 0
    lines = output.read_text().splitlines()
    run.outputs[step.get("id", str(number))] = dict(line.split("=", 1) for line in lines)


def _run_shell(
    run: Run,
    script: Path,
    environment: Mapping[str, str],
    cancel_when: Callable[[], bool] | None,
) -> tuple[int, str]:
    """Run a script with the command that GitHub documents for `shell: bash`."""
    log = run.workspace / ".log"
    with log.open("w") as file:
        process = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=run.workspace,
            env=dict(environment),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        while process.poll() is None:
            if cancel_when is not None and not run.is_cancelled and cancel_when():
                run.is_cancelled = True
                # GitHub's first signal; then SIGTERM after 7.5 s, then SIGKILL
                process.send_signal(signal.SIGINT)
            time.sleep(0.05)
    return process.returncode, log.read_text()


def _expand(run: Run, text: str) -> str:
    return _EXPRESSION.sub(lambda found: str(_evaluate(run, found[1])), text)


def _evaluate(run: Run, expression: str) -> Any:
    """Return the value of an expression, of the few forms that the action uses."""
    translated = _NAME.sub(lambda found: _translate(found[0]), expression.strip())
    translated = translated.replace("&&", " and ").replace("||", " or ")
    translated = re.sub(r"!(?!=)", " not ", translated)
    functions = {
        "look_up": lambda name: _look_up(run, name),
        "contains": lambda values, value: value in values,
        "fromJSON": json.loads,
        "hashFiles": lambda *names: _hash_files(run.workspace, names),
        "always": lambda: True,
        "success": lambda: not run.has_failed and not run.is_cancelled,
        "cancelled": lambda: run.is_cancelled,
    }
    return eval(translated, {"__builtins__": {}}, functions)


def _translate(name: str) -> str:
    return repr(name[1:-1]) if name.startswith("'") else f"look_up({name!r})"


def _look_up(run: Run, name: str) -> str:
    context, *rest = name.split(".")
    if context == "inputs":
        return run.inputs[rest[0]]
    if context == "steps":
        return run.outputs.get(rest[0], {}).get(rest[2], "")
    known = {
        "github.action_path": str(run.action),
        "github.token": run.environment.get("FAKE_TOKEN", ""),
        "github.run_id": "77",
        "github.run_attempt": "1",
        "runner.os": "Linux",
    }
    return known[name]


def _hash_files(workspace: Path, names: tuple[str, ...]) -> str:
    found = [workspace / name for name in names if name and (workspace / name).is_file()]
    content = b"".join(path.read_bytes() for path in found)
    return hashlib.sha256(content).hexdigest() if found else ""


def build_environment(workspace: Path, **more: str) -> dict[str, str]:
    """Return the environment that a runner gives to every step."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/root"),
        "OMP_NUM_THREADS": "1",
        "RUNNER_TEMP": str(workspace / ".temp"),
        "GITHUB_ACTIONS": "true",
        "GITHUB_SERVER_URL": "https://github.example",
        "GITHUB_REPOSITORY": "team/model",
        "GITHUB_RUN_ID": "77",
        **more,
    }
