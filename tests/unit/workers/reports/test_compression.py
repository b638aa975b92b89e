"""The report of a compression: its verdict, and pages that hold what was measured."""

from __future__ import annotations

import json

import pytest

from excise.reports.common import ModelIdentity
from excise.reports.compression import (
    CompressionReport,
    CorpusPerplexity,
    ModuleZeros,
    TaskChange,
    TaskScore,
)
from workers.compression.verdict import judge_compression
from workers.reports.compression import (
    render_compression_html,
    render_compression_markdown,
)
from workers.reports.rendering import (
    REVERT_COMMAND,
    NonFiniteReportError,
    render_json,
    write_apply_command,
)

HOSTILE = "<script>alert(1)</script>|`\x1b"


def perplexity(
    before: float = 20.0, after: float = 25.0, corpus: str = "prose"
) -> CorpusPerplexity:
    return CorpusPerplexity(corpus=corpus, context=128, tokens=508, before=before, after=after)


def score(accuracy: float) -> TaskScore:
    return TaskScore(
        questions=200,
        accuracy=accuracy,
        accuracy_error=0.031,
        normalised_accuracy=accuracy / 2,
        normalised_accuracy_error=0.027,
    )


def report(limit: float | None = None, **changes: object) -> CompressionReport:
    verdict, reason, gates = judge_compression(perplexity(), limit)
    whole = CompressionReport(
        verdict=verdict,
        reason=reason,
        method="wanda",
        statistic="mean",
        pattern="2:4",
        sequential=True,
        target_sparsity=0.5,
        achieved_sparsity=0.4987,
        calibration={"prompts": "letters", "samples": "16", "tokens": "96"},
        perplexity=perplexity(),
        tasks=[TaskChange(name="boolq", before=score(0.613), after=score(0.587))],
        modules=[ModuleZeros(module="model.layers.0.mlp.up_proj", zeros=1234, weights=2468)],
        gates=gates,
        speed_note="No faster.",
        files_note="What is handed over.",
        timings={"compress": 1.0},
        seed=3,
        versions={"torch": "2"},
        model=ModelIdentity(id="tiny", sha256="ab" * 32),
    )
    return whole.model_copy(update=changes)


def test_pages_hold_what_was_measured() -> None:
    page, text = render_compression_html(report()), render_compression_markdown(report())
    for shown in (
        "wanda (mean)",
        "2:4",
        "boolq",
        "61.3",
        "58.7",
        "3.1",
        "1,234",
        "ab" * 32,
        "No faster.",
    ):
        assert shown in page
        assert shown in text
    assert "What is handed over." in page
    assert "block after block" in page
    assert "block after block" not in render_compression_html(report(sequential=False))
    assert "<script" not in page
    assert "Gates" not in page


def test_only_a_patch_comes_with_the_commands_that_apply_it() -> None:
    for render in (render_compression_html, render_compression_markdown):
        assert "excise patch" not in render(report())
        shown = render(report(has_patch=True))
        assert write_apply_command(report().verdict) in shown
        assert REVERT_COMMAND in shown


def test_a_missed_gate_is_shown() -> None:
    page, text = render_compression_html(report(0.1)), render_compression_markdown(report(0.1))
    assert "Rejected" in page
    assert "0 of 1 limits met" in page
    assert "✕ fail" in page
    assert "❌ fail" in text


def test_tasks_are_left_out_where_none_were_asked_for() -> None:
    assert "Zero-shot" in render_compression_html(report())
    assert "Zero-shot" not in render_compression_html(report(tasks=[]))
    assert "boolq" not in render_compression_markdown(report(tasks=[]))


def test_the_same_report_gives_the_same_bytes_whatever_its_timings() -> None:
    later = report(timings={"compress": 9.0})
    assert render_compression_html(report()) == render_compression_html(later)
    assert render_compression_markdown(report()) == render_compression_markdown(later)
    assert CompressionReport.model_validate(json.loads(render_json(report()))) == report()


def test_names_are_escaped() -> None:
    hostile = report(perplexity=perplexity(corpus=HOSTILE))
    page = render_compression_html(hostile)
    assert "<script" not in page
    assert "\x1b" not in page + render_compression_markdown(hostile)


def test_a_figure_that_is_not_finite_is_refused() -> None:
    with pytest.raises(NonFiniteReportError, match=r"perplexity.after"):
        render_compression_html(report(perplexity=perplexity(after=float("inf"))))
