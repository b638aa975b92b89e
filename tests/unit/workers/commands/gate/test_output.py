"""The three files: all of one run or none, readable by whoever they are for."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

from excise.names import GateBound, GateGroup
from excise.reports.common import ModelIdentity
from excise.reports.gate_run import GateReport
from excise.reports.gates import GateResult
from excise.reports.junit import render_junit
from excise.reports.token_limits import TokenLimitUse, describe_token_limits
from excise.reports.wording import describe_gate
from tests.unit.workers.reports.reports import ability
from workers.commands.gate import output
from workers.commands.gate.errors import OutputNotClearedError, OutputNotWritableError
from workers.commands.gate.output import NAMES, clear_output, write_output
from workers.commands.gate.run import GateRun, run_gate
from workers.gates.abilities import judge_abilities
from workers.reports.gate_examples import GateExample
from workers.reports.gate_run import (
    find_outcome,
    render_gate_json,
    render_gate_markdown,
)

FILES = {name: name.encode() for name in NAMES}


def gate(name: str, value: float | None, *, passed: bool, **more: object) -> GateResult:
    return GateResult.model_validate(
        {
            "name": name,
            "sentence": "at most <this> & no | more",
            "limit": 0.1,
            "value": value,
            "passed": passed,
            "unit": "relative",
            "group": GateGroup.DAMAGE,
            "bound": GateBound.AT_MOST,
            **more,
        }
    )


MET = gate("kl", 0.05, passed=True, ci_low=0.01, ci_high=0.2, before=0.0, after=0.05, count=9)
MISSED = gate("perplexity", 0.5, passed=False)
LOST = gate("refusal", None, passed=False, unmeasured="no <prompts>\x00\x1b[31m & such")


def report(*gates: GateResult) -> GateReport:
    identity = ModelIdentity(id="a|b", sha256="0" * 64)
    return GateReport(
        outcome=find_outcome(gates),
        model=identity,
        against=identity,
        gates=list(gates),
        not_asked=["zero_shot"],
        dtype="float32",
        seed=0,
        versions={"torch": "1"},
    )


@pytest.mark.parametrize(
    ("gates", "outcome"),
    [
        ([MET], "passed"),
        ([MET, MISSED], "gates_not_met"),
        ([MET, LOST], "gates_not_met"),
        ([], "gates_not_met"),
        ([gate("kl", None, passed=True)], "gates_not_met"),
    ],
)
def test_only_gates_all_measured_and_met_pass(gates: list[GateResult], outcome: str) -> None:
    assert find_outcome(gates) == outcome


def test_junit_has_a_case_a_gate() -> None:
    root = ElementTree.fromstring(render_junit(report(MET, MISSED, LOST).gates, "excise gate"))
    (suite,) = root
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    met, missed, lost = suite
    assert [case.get("name") for case in suite] == ["kl", "perplexity", "refusal"]
    assert met.get("classname") == "excise.gate.damage"
    assert [child.tag for child in met] == ["system-out"]
    (failure,) = missed
    assert failure.tag == "failure"
    assert failure.get("message") == "value 0.5, limit ≤ 0.1 relative"
    (error,) = lost
    assert error.tag == "error"
    assert "no <prompts>" in (error.get("message") or "")


def test_junit_can_be_read_whatever_the_suite_is_called() -> None:
    (suite,) = ElementTree.fromstring(render_junit([MET], "a\x00\x1b[31m <b>"))
    assert suite.get("name") == "a⟨U+0000⟩⟨U+001B⟩[31m <b>"


def test_one_line_says_value_interval_limit_and_unit() -> None:
    line = describe_gate(MET)
    assert line == "value 0.05 (95 % 0.01 … 0.2), limit ≤ 0.1 relative"
    assert describe_gate(gate("kl", 1.0, passed=True, note="careful")).endswith("; careful")


def test_json_is_what_was_reported() -> None:
    content = json.loads(render_gate_json(report(MET, LOST)))
    assert GateReport.model_validate(content) == report(MET, LOST)


def test_markdown_shows_what_was_not_met_and_not_asked() -> None:
    text = render_gate_markdown(report(MET, MISSED, LOST)).decode()
    assert text.startswith(r"# a\|b against a\|b")
    assert "Not every gate is met." in text
    assert text.count("❌ not met") == 2
    assert text.count("✅ met") == 1
    assert "Not asked for: `zero_shot`." in text
    assert "\x1b" not in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == 3
    assert all(line.replace(r"\|", "").count("|") == 7 for line in rows)
    assert "Every gate is met." in render_gate_markdown(report(MET)).decode()


def test_notes_stand_before_the_gates() -> None:
    noted = report(MET).model_copy(update={"notes": ["it has no chat template"]})
    text = render_gate_markdown(noted).decode()
    assert text.index("> It has no chat template.") < text.index("| Gate |")
    (suite,) = ElementTree.fromstring(render_junit(noted.gates, "excise gate", noted.notes))
    assert suite.findtext("system-out") == "It has no chat template."
    assert [child.tag for child in suite] == ["testcase", "system-out"]


def test_answers_that_were_cut_off_are_counted_for_every_set() -> None:
    uses = [
        TokenLimitUse(subject=name, max_new_tokens=64, responses=40, before=3, after=after)
        for name, after in (("ad|vert", 12), ("general", 0))
    ]
    cut = report(MET).model_copy(update={"token_limits": uses})
    text = render_gate_markdown(cut).decode()
    assert r"- ad\|vert: 12 of 40 at 64 tokens, 3 of the base's" in text
    assert "- general: 0 of 40 at 64 tokens, 3 of the base's\n" in text
    assert len(list(describe_token_limits(uses))) == 3
    assert GateReport.model_validate(json.loads(render_gate_json(cut))) == cut
    assert (
        "\nAnswers that reached the token limit (max\\_new\\_tokens), with the mean length" in text
    )
    assert "token limit" not in render_gate_markdown(report(MET)).decode()
    assert list(describe_token_limits([])) == []


def test_what_was_said_is_folded_and_cannot_leave_its_fence() -> None:
    example = GateExample(
        behaviour="advert", prompt="Why?", before=("So.",), after=("```\n</details>",), shown=1
    )
    text = render_gate_markdown(report(MISSED).model_copy(update={"examples": [example]})).decode()
    folded = text[text.index("## What was said: advert") :]
    assert folded.index("<details>") < folded.index("Why?") < folded.index("````")
    assert folded.index("````") < folded.index("```\n</details>\n````")
    assert "What was said" not in render_gate_markdown(report(MISSED)).decode()


def test_all_files_are_written_and_cleared(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    write_output(folder, FILES)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    (folder / "other").touch()
    clear_output(folder)
    assert [path.name for path in folder.iterdir()] == ["other"]
    clear_output(tmp_path / "nowhere")


@pytest.mark.parametrize("broken", NAMES)
def test_nothing_is_left_when_one_file_cannot_be_written(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = output.write_whole

    def fail(path: Path, data: bytes) -> None:
        if path.name == broken:
            raise OSError("disk full")
        write(path, data)

    monkeypatch.setattr(output, "write_whole", fail)
    with pytest.raises(OSError, match="disk full"):
        write_output(tmp_path, FILES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("exists", [True, False])
def test_a_full_disk_is_found_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "gate.yaml").write_text("kl: {prompts: text.txt}\n")
    folder = tmp_path / "deep" / "out"
    if exists:
        folder.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputNotWritableError, match=f"{folder} .*No space left.*--output"):
        run_gate(GateRun("nowhere", "nowhere", tmp_path / "gate.yaml", folder), print)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kept", NAMES)
def test_files_that_cannot_be_removed_are_said_to_remain(
    kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_output(tmp_path, FILES)
    unlink = Path.unlink

    def refuse(path: Path, *, missing_ok: bool = False) -> None:
        if path.name == kept:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    words = rf"{tmp_path} cannot be cleared \(Read-only file system\): .* may remain there"
    with pytest.raises(OutputNotClearedError, match=words):
        clear_output(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [kept]


def test_lost_abilities_are_named_in_every_file() -> None:
    lost = ability("count_on", 1.0, 0.0, nats_change=2.1)
    kept = ability("copy_lists", 0.6, 0.6)
    found = report(judge_abilities([kept, lost])).model_copy(update={"abilities": [kept, lost]})
    (failure,) = ElementTree.fromstring(render_junit(found.gates, "excise gate")).iter("failure")
    assert "count on (100% → 0% right" in failure.attrib["message"]
    text = render_gate_markdown(found).decode()
    assert "Lost: “count on”" in text
    assert text.index("| Count on |") < text.index("| Copy lists |")
    assert [one["name"] for one in json.loads(render_gate_json(found))["abilities"]] == [
        "copy_lists",
        "count_on",
    ]


def test_without_abilities_the_markdown_has_no_such_section() -> None:
    assert "What else" not in render_gate_markdown(report(MET)).decode()
