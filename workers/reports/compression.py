"""The report of a compression: what was removed, what it cost, and the verdict on it."""

from __future__ import annotations

from excise.names import Verdict
from excise.reports.compression import (
    CompressionReport,
    CorpusPerplexity,
)
from excise.reports.gates import GateResult
from workers.reports.gates import build_gate_groups
from workers.reports.rendering import (
    REVERT_COMMAND,
    render_html_template,
    render_markdown_template,
    require_finite,
    write_apply_command,
)

_REMEDY = (
    "The compressed model predicts the corpus worse than allowed. Give a lower sparsity, a "
    "calibration set like the corpus, or another method; or raise budget.perplexity_increase"
)


def judge_compression(
    perplexity: CorpusPerplexity, limit: float | None
) -> tuple[Verdict, str, list[GateResult]]:
    """The verdict on a compression, why, and its gates; without a limit it passes."""
    cost = (
        f"Perplexity of the corpus {perplexity.corpus} goes from {perplexity.before:.2f} to "
        f"{perplexity.after:.2f} ({perplexity.increase:+.1%})"
    )
    if limit is None:
        return Verdict.PASSED, f"{cost}; no limit was asked for.", []
    gate = GateResult(
        name="perplexity",
        sentence="perplexity rises by at most this share",
        limit=limit,
        value=perplexity.increase,
        passed=perplexity.increase <= limit,
    )
    gate = gate if gate.passed else gate.model_copy(update={"remedy": _REMEDY})
    if gate.passed:
        return Verdict.PASSED, f"{cost}, within the limit of {limit:+.1%}.", [gate]
    return Verdict.REJECTED, f"{cost}, over the limit of {limit:+.1%}.", [gate]


def render_compression_markdown(report: CompressionReport) -> str:
    """The report as GitHub-flavoured Markdown, without timings."""
    return render_markdown_template("compression.md.j2", _context(report))


def render_compression_html(report: CompressionReport) -> str:
    """The report as one HTML page that loads nothing and runs no script, without timings."""
    return render_html_template("compression.html.j2", _context(report))


def _context(report: CompressionReport) -> dict[str, object]:
    require_finite(report.model_dump())
    return {
        "kind": report.kind,
        "report": report,
        "gate_groups": build_gate_groups(report.gates),
        "apply_command": write_apply_command(report.verdict),
        "revert_command": REVERT_COMMAND,
    }
