"""The report of `excise gate`, rendered as JSON and Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from excise.names import GateOutcome
from excise.reports.gate_run import GateReport
from excise.reports.gates import GateResult
from excise.reports.token_limits import ANSWERS_HEADING, describe_token_limit
from excise.reports.wording import SIGNS, describe_values, list_moved
from workers.reports.abilities import build_abilities
from workers.reports.rendering import (
    render_json,
    render_markdown_template,
    require_finite,
)


def find_outcome(gates: Sequence[GateResult]) -> GateOutcome:
    """Return `passed` if there are gates and every one was measured and met."""
    met = [gate.is_met for gate in gates]
    return GateOutcome.PASSED if met and all(met) else GateOutcome.GATES_NOT_MET


def render_gate_json(report: GateReport) -> bytes:
    """Return the report as JSON; raises `NonFiniteReportError` for NaN or infinity."""
    return render_json(report)


def render_gate_markdown(report: GateReport) -> bytes:
    """Return the report as GitHub-flavoured Markdown."""
    require_finite(report.model_dump())
    context = {
        "report": report,
        "signs": SIGNS,
        "abilities": build_abilities(report.abilities),
        "token_limits_heading": ANSWERS_HEADING,
        "token_limits": list(map(describe_token_limit, report.token_limits)),
        "moved": [] if report.comparison is None else list_moved(report.comparison),
        "describe_values": describe_values,
    }
    return render_markdown_template("gate.md.j2", context).encode()
