"""Printing a report: where it fails, files and exit code are the verdict's all the same."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from excise.names import GateOutcome
from excise.reports import GateReport
from tests.unit.workers.gates.test_earlier import build_gate, build_report
from workers.commands.app import gate_command
from workers.commands.gate import run
from workers.commands.gate.printing import print_report
from workers.commands.gate.run import GateRun


def test_gates_notes_and_the_folder_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    report = build_report(build_gate(0.2), build_gate(0.7, name="perplexity"), notes=["look"])
    print_report(report, Path("out"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "note: look"
    assert lines[1].startswith("met      kl: value 0.2")
    assert lines[2].startswith("NOT MET  perplexity: value 0.7")
    assert lines[-1] == "wrote gate.json, gate.md and gate.xml to out"


def test_a_checkpoint_s_own_words_command_neither_terminal_nor_pipeline(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = "\x1b[1A\x1b[2K\n::error::mine ##[stop-commands]x ##vso[task.setvariable]y \u202e"
    gate = build_gate(None, unmeasured=words, note=words, remedy=words, name=f"kl:{words}")
    print_report(build_report(gate, notes=[words]), Path("out"))
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) == 5
    assert {own for own in shown if not own.isprintable()} == {"\n"}
    assert "##[" not in shown
    assert "##vso[" not in shown
    assert "## [stop-commands]x ## vso[" in shown


def test_a_secret_that_a_checkpoint_knows_is_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEPLOY_TOKEN", "correct horse")
    gate = build_gate(None, unmeasured="the template says correct horse")
    print_report(build_report(gate), Path("out"))
    assert "the template says ***" in capsys.readouterr().out


OUTCOMES = pytest.mark.parametrize(
    ("outcome", "code"), [(GateOutcome.PASSED, 0), (GateOutcome.GATES_NOT_MET, 100)]
)


@OUTCOMES
def test_progress_that_nobody_reads_leaves_the_verdict(
    outcome: GateOutcome,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = build_report(build_gate(0.2), outcome=outcome)

    def run_gate(asked: GateRun, say: Callable[[str], None]) -> GateReport:
        say("measuring")
        return report

    monkeypatch.setattr(run, "run_gate", run_gate)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody:
        monkeypatch.setattr(sys, "stderr", nobody)
        with pytest.raises(typer.Exit) as ended:
            gate_command("model", "base", tmp_path / "gate.yaml", tmp_path)
    assert ended.value.exit_code == code
    assert "met      kl" in capsys.readouterr().out


@OUTCOMES
def test_an_output_that_takes_nothing_leaves_the_verdict(
    outcome: GateOutcome,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = build_report(build_gate(0.2), outcome=outcome)
    monkeypatch.setattr(run, "run_gate", lambda asked, say: report)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        with pytest.raises(typer.Exit) as ended:
            gate_command("model", "base", tmp_path / "gate.yaml", tmp_path)
        nobody.flush()  # as the main program does at the end
    assert ended.value.exit_code == code
    assert f"it is in {tmp_path}" in capsys.readouterr().err
