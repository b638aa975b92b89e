"""The report of a compression job, rendered as Markdown and HTML."""

from __future__ import annotations

from excise.reports.compression import CompressionReport
from workers.reports.gates import build_gate_groups
from workers.reports.rendering import (
    REVERT_COMMAND,
    render_html_template,
    render_markdown_template,
    require_finite,
    write_apply_command,
)


def render_compression_markdown(report: CompressionReport) -> str:
    """Return the report as GitHub-flavoured Markdown, without timings."""
    return render_markdown_template("compression.md.j2", _context(report))


def render_compression_html(report: CompressionReport) -> str:
    """Return the report as one HTML page without external resources, scripts and timings."""
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
