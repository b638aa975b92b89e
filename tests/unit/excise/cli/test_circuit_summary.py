"""A circuit's report at the terminal: from the report's JSON to readable tables."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from excise.cli.report_summary import print_report
from excise.reports import ReportError, read_report
from tests.unit.excise.cli.fake_service import RUN

GATE = {"name": "size", "sentence": "it is small", "limit": 0.5, "value": 0.15, "passed": True}
POINT = {
    "share": 0.15,
    "kept": 1500,
    "metric": 3.8,
    "faithfulness": 0.95,
    "retention": 0.93,
    "accuracy": 1.0,
}
CURVE = {
    "attributor": "attnlrp",
    "cpr": 1.2134,
    "cmd": 0.4321,
    "empty_metric": 0.1,
    "points": [POINT],
    "chosen": POINT,
}
CIRCUIT: dict[str, Any] = {
    **RUN,
    "kind": "circuit",
    "schema_version": 1,
    "ablation": "counterfactual",
    "order": "signed",
    "heatmap": [],
    "patch_note": "It zeroes the rest.",
    "verdict": "passed",
    "reason": "1,500 of 10,000 components.",
    "granularity": "neuron",
    "threshold": 0.9,
    "task": {
        "name": "ioi",
        "metric": "logit_difference",
        "rows": {"held_out": 8},
        "whole_metric": 4.0,
        "corrupted_metric": -4.0,
        "whole_accuracy": 1.0,
    },
    "curves": [
        CURVE,
        {**CURVE, "attributor": "wanda", "chosen": {**POINT, "share": 0.7, "kept": 7000}},
    ],
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


def show(report: dict[str, Any]) -> str:
    """What the terminal shows of a report.json."""
    file = io.StringIO()
    print_report(read_report(json.dumps(report).encode()), Console(file=file, width=120))
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


def test_names_from_outside_move_no_cursor() -> None:
    task = {**CIRCUIT["task"], "name": "\x1b[2Jioi"}
    assert "\x1b" not in show({**CIRCUIT, "task": task})


def test_a_report_without_its_figures_is_no_traceback() -> None:
    with pytest.raises(ReportError, match=r"version known here: \S+ Field required"):
        show({"kind": "circuit", "schema_version": 1, "verdict": "passed"})
