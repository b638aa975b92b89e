"""`excise gate --baseline`: reading an earlier run, and what becomes of the outcome."""

from __future__ import annotations

from pathlib import Path

import pytest

from excise.names import GateOutcome
from excise.reports.gate_run import GateReport
from excise.reports.junit import render_junit
from excise.reports.wording import describe_comparison
from tests.unit.workers.gates.test_earlier import build_gate, build_report
from workers.commands.gate.baseline import add_comparison, load_baseline
from workers.commands.gate.errors import GateConfigError
from workers.commands.gate.output import JSON_NAME
from workers.commands.gate.run import GateRun, run_gate
from workers.reports.gate_run import (
    render_gate_json,
    render_gate_markdown,
)


def write(folder: Path, report: GateReport) -> Path:
    folder.mkdir()
    (folder / JSON_NAME).write_bytes(render_gate_json(report))
    return folder


def test_a_run_is_named_by_its_folder_or_its_file(tmp_path: Path) -> None:
    report = build_report(build_gate(0.2))
    folder = write(tmp_path / "run", report)
    assert load_baseline(folder) == load_baseline(folder / JSON_NAME) == report


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot read"), (b"not json", "not JSON"), (b'{"schema_version": 9}', "version 9")],
)
def test_what_is_no_run_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / JSON_NAME).write_bytes(content)
    with pytest.raises(GateConfigError, match=words):
        load_baseline(tmp_path)


def test_a_loss_alone_is_told_and_changes_no_outcome() -> None:
    report, earlier = build_report(build_gate(0.4)), build_report(build_gate(0.2))
    found = add_comparison(report, earlier, is_gate=False)
    assert found.outcome is GateOutcome.PASSED
    assert found.gates == report.gates
    lines = list(describe_comparison(found.comparison))  # type: ignore[arg-type]
    assert lines[-1] == "  clearly worse: kl 0.2 → 0.4"
    assert "| `kl` | 0.2 → 0.4 | clearly worse |" in render_gate_markdown(found).decode()


def test_on_request_it_is_a_gate_like_the_others() -> None:
    report, earlier = build_report(build_gate(0.4)), build_report(build_gate(0.2))
    found = add_comparison(report, earlier, is_gate=True)
    assert found.outcome is GateOutcome.GATES_NOT_MET
    gate = found.gates[-1]
    assert "take that run as the next baseline" in (gate.remedy or "")
    assert 'name="not_worse"' in render_junit(found.gates, "gate").decode()
    same = add_comparison(report, report, is_gate=True)
    assert same.outcome is GateOutcome.PASSED
    assert "No figure moved" in render_gate_markdown(same).decode()


def test_a_baseline_in_the_output_folder_is_refused_and_kept(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", build_report(build_gate(0.2)))
    for baseline in (folder, folder / JSON_NAME):
        run = GateRun("model", "base", tmp_path / "gate.yaml", folder, baseline=baseline)
        with pytest.raises(GateConfigError, match="lies in the output folder"):
            run_gate(run, print)
    assert load_baseline(folder)


def test_failing_if_worse_needs_an_earlier_run_and_leaves_none(tmp_path: Path) -> None:
    output = write(tmp_path / "out", build_report(build_gate(0.2)))
    run = GateRun("model", "base", tmp_path / "gate.yaml", output, fails_if_worse=True)
    with pytest.raises(GateConfigError, match="name one by --baseline"):
        run_gate(run, print)
    assert list(output.iterdir()) == []
