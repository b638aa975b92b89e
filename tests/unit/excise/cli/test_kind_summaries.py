"""Circuit and compression reports at the terminal: from the report's JSON to readable tables."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from excise.cli.output import CommandError
from excise.cli.report_view import print_report

POINT = {"share": 0.15, "kept": 1500, "metric": 3.8, "retention": 0.93}
CURVE = {"attributor": "attnlrp", "cpr": 1.2134, "cmd": 0.4321, "points": [POINT], "chosen": POINT}
GATE = {"name": "size", "sentence": "it is small", "limit": 0.5, "value": 0.15, "passed": True}
CIRCUIT: dict[str, Any] = {
    "kind": "circuit",
    "verdict": "passed",
    "reason": "1,500 of 10,000 components.",
    "granularity": "neuron",
    "threshold": 0.9,
    "task": {"name": "ioi", "metric": "logit_difference", "rows": {"held_out": 8}},
    "curves": [CURVE, {**CURVE, "attributor": "wanda", "chosen": {"share": 0.7, "kept": 7000}}],
    "circuit": {
        "attributor": "attnlrp",
        "kept": 1500,
        "of": 10_000,
        "held_out": {
            "whole_metric": 4.0,
            "metric": 3.8,
            "retention": 0.95,
            "accuracy": 1.0,
            "zero_retention": -0.071,
        },
    },
    "gates": [GATE],
}
SCORE = {"questions": 200, "accuracy": 0.613, "accuracy_error": 0.034, "normalised_accuracy": 0.5}
COMPRESSION: dict[str, Any] = {
    "kind": "compression",
    "verdict": "rejected",
    "reason": "Perplexity rises.",
    "method": "wanda",
    "pattern": "2:4",
    "achieved_sparsity": 0.4987,
    "perplexity": {"corpus": "prose", "context": 128, "before": 20.0, "after": 25.0},
    "tasks": [{"name": "boolq", "before": SCORE, "after": {**SCORE, "accuracy": 0.587}}],
    "gates": [{**GATE, "name": "perplexity", "value": None, "passed": False}],
    "speed_note": "Zeros save no time.",
}


def show(report: dict[str, Any]) -> str:
    """What the terminal shows of a report.json."""
    file = io.StringIO()
    print_report(json.dumps(report).encode(), Console(file=file, width=120))
    return file.getvalue()


def test_a_circuit_is_shown_with_every_attributor() -> None:
    text = show(CIRCUIT)
    assert "PASSED" in text
    for figure in ("4.000", "3.800", "95.0% kept", "15.000% of all", "-7.1% kept"):
        assert figure in text
    for figure in ("attnlrp", "1500", "15.00%", "1.213", "0.432", "wanda", "7000", "70.00%"):
        assert figure in text
    assert "keeps 90%" in text
    assert "it is small" in text


def test_a_circuit_job_without_a_circuit_says_why() -> None:
    found = {**CIRCUIT, "verdict": "no_effect", "reason": "It does not do the task."}
    text = show({**found, "circuit": None, "curves": [], "gates": []})
    assert "It does not do the task." in text
    assert "The circuit" not in text
    assert "Attributors" not in text


def test_a_compression_is_shown_before_and_after() -> None:
    text = show(COMPRESSION)
    assert "REJECTED" in text
    for figure in ("prose", "20.00", "25.00", "+25.0%", "49.9%", "wanda, 2:4"):
        assert figure in text
    for figure in ("boolq, accuracy (200)", "0.613", "0.587 ± 0.034", "-0.026"):
        assert figure in text
    assert "Zeros save no time." in text


@pytest.mark.parametrize("before", [0.0, 20.0])
def test_a_base_without_perplexity_divides_by_nothing(before: float) -> None:
    changed = {**COMPRESSION, "perplexity": {"corpus": "p", "before": before, "after": before}}
    assert "+0.0%" in show(changed)


def test_names_from_outside_move_no_cursor() -> None:
    task = {"name": "\x1b[2Jioi", "metric": "logit_difference"}
    assert "\x1b" not in show({**CIRCUIT, "task": task})
    named = {**COMPRESSION, "perplexity": {"corpus": "\x1b[31mred", "before": 1.0, "after": 2.0}}
    assert "\x1b" not in show(named)


@pytest.mark.parametrize("report", [CIRCUIT, COMPRESSION])
def test_a_report_without_its_figures_is_no_traceback(report: dict[str, Any]) -> None:
    with pytest.raises(CommandError, match="not a report of a version known here"):
        show({"kind": report["kind"], "verdict": "passed"})
