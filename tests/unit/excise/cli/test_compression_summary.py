"""A compression's report at the terminal: from the report's JSON to readable tables."""

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
SCORE = {
    "questions": 200,
    "accuracy": 0.613,
    "accuracy_error": 0.034,
    "normalised_accuracy": 0.5,
    "normalised_accuracy_error": 0.03,
}
COMPRESSION: dict[str, Any] = {
    **RUN,
    "kind": "compression",
    "schema_version": 1,
    "statistic": "mean_absolute",
    "sequential": False,
    "target_sparsity": 0.5,
    "calibration": {"prompts": "prose"},
    "modules": [],
    "files_note": "It is as large as before.",
    "verdict": "rejected",
    "reason": "Perplexity rises.",
    "method": "wanda",
    "pattern": "2:4",
    "achieved_sparsity": 0.4987,
    "perplexity": {
        "corpus": "prose",
        "context": 128,
        "tokens": 5120,
        "before": 20.0,
        "after": 25.0,
    },
    "tasks": [{"name": "boolq", "before": SCORE, "after": {**SCORE, "accuracy": 0.587}}],
    "gates": [{**GATE, "name": "perplexity", "value": None, "passed": False}],
    "speed_note": "Zeros save no time.",
}


def show(report: dict[str, Any]) -> str:
    """What the terminal shows of a report.json."""
    file = io.StringIO()
    print_report(read_report(json.dumps(report).encode()), Console(file=file, width=120))
    return file.getvalue()


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
    perplexity = {**COMPRESSION["perplexity"], "before": before, "after": before}
    assert "+0.0%" in show({**COMPRESSION, "perplexity": perplexity})


def test_names_from_outside_move_no_cursor() -> None:
    perplexity = {**COMPRESSION["perplexity"], "corpus": "\x1b[31mred"}
    assert "\x1b" not in show({**COMPRESSION, "perplexity": perplexity})


def test_a_report_without_its_figures_is_no_traceback() -> None:
    with pytest.raises(ReportError, match=r"version known here: \S+ Field required"):
        show({"kind": "compression", "schema_version": 1, "verdict": "passed"})
