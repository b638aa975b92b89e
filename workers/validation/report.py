"""The report of a correction, rendered as Markdown and one self-contained HTML page."""

from __future__ import annotations

from workers.domain import Report
from workers.validation.rendering import (
    APPLY_COMMAND,
    REVERT_COMMAND,
    NonFiniteReportError,
    render_html_template,
    render_json,
    render_markdown_template,
    require_finite,
)
from workers.validation.report_charts import (
    build_effect_axis,
    build_layer_map,
    build_search_chart,
    order_modules,
)
from workers.validation.report_samples import build_sample_groups

__all__ = ["NonFiniteReportError", "render_html", "render_json", "render_markdown"]


def render_markdown(report: Report) -> str:
    """The report as GitHub-flavoured Markdown, without timings."""
    return render_markdown_template("report.md.j2", _context(report))


def render_html(report: Report) -> str:
    """The report as one HTML page that loads nothing and runs no script, without timings."""
    return render_html_template("report.html.j2", _context(report))


def _context(report: Report) -> dict[str, object]:
    require_finite(report.model_dump())
    return {
        "report": report,
        "rounds": build_search_chart(report),
        "layer_map": build_layer_map(report),
        "modules": order_modules(report),
        "sample_groups": build_sample_groups(report),
        "effect_axis": build_effect_axis,
        "apply_command": APPLY_COMMAND,
        "revert_command": REVERT_COMMAND,
    }
