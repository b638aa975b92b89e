"""The report of a correction job, rendered as Markdown and one self-contained HTML page."""

from __future__ import annotations

from excise.reports.correction import CorrectionReport
from excise.reports.token_limits import ANSWERS_HEADING, describe_token_limit
from workers.reports.abilities import build_abilities
from workers.reports.charts import build_layer_map, order_modules
from workers.reports.effects import (
    build_alone_rows,
    build_effect_views,
    describe_fall,
    describe_judges,
)
from workers.reports.gates import build_gate_groups, list_failed
from workers.reports.leftovers import build_leftovers
from workers.reports.rendering import (
    REVERT_COMMAND,
    NonFiniteReportError,
    render_html_template,
    render_json,
    render_markdown_template,
    require_finite,
    write_apply_command,
)
from workers.reports.samples import build_samples
from workers.reports.search import build_search_view, describe_lines, describe_rank_limit

__all__ = ["NonFiniteReportError", "render_html", "render_json", "render_markdown"]

_REPRODUCE_COMMAND = """\
excise reproduce manifest.json --prompts-dir PROMPTS_DIR --wait --output AGAIN_DIR"""


def render_markdown(report: CorrectionReport) -> str:
    """Return the report as GitHub-flavoured Markdown, without timings."""
    return render_markdown_template("report.md.j2", _context(report))


def render_html(report: CorrectionReport) -> str:
    """Return the report as one HTML page without external resources, scripts and timings."""
    return render_html_template("report.html.j2", _context(report))


def _context(report: CorrectionReport) -> dict[str, object]:
    require_finite(report.model_dump())
    effects = build_effect_views(report)
    return {
        "kind": "correction",
        "report": report,
        "effects": effects,
        "abilities": build_abilities(report.abilities),
        "alone_rows": build_alone_rows(effects),
        "describe_fall": describe_fall,
        "describe_judges": describe_judges,
        "token_limits_heading": ANSWERS_HEADING,
        "token_limits": list(map(describe_token_limit, report.token_limits)),
        "gate_groups": build_gate_groups(report.gates),
        "failed": list_failed(report.gates),
        "search": build_search_view(report),
        "rank_limit_sentence": describe_rank_limit(report) or describe_lines(report),
        "layer_map": build_layer_map(report.patch),
        "modules": order_modules(report.patch),
        "samples": build_samples(report),
        "leftovers": build_leftovers(report),
        "reproduce_command": _REPRODUCE_COMMAND,
        "apply_command": write_apply_command(report.verdict),
        "revert_command": REVERT_COMMAND,
    }
