"""Reading reports written by any version of Excise."""

from __future__ import annotations

import json
from typing import Any, get_args

from pydantic import ValidationError

from excise.errors import UserError
from excise.names import GateOutcome, JobKind
from excise.reports.circuit import CircuitReport
from excise.reports.compression import CompressionReport
from excise.reports.correction import CorrectionReport
from excise.reports.gate_run import GateReport

Report = CorrectionReport | CircuitReport | CompressionReport | GateReport

_NAMED = 6
"""Largest number of gates that a message names. Chosen by hand."""

_MOST_CHARACTERS = 500


class ReportError(UserError):
    """The content is not a report, or a report of an unknown version."""


def read_report(content: bytes) -> Report:
    """Return the report in a job's report.json, or in the gate.json of `excise gate`.

    Fields added by newer versions of Excise are ignored. Corrections of schema version 2, without
    effects relative to the random control, can be read too. Raises `ReportError`, also for a run of
    `excise gate` whose outcome contradicts its gates.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise ReportError("This is not a report: it is not JSON.") from None
    if not isinstance(document, dict):
        raise ReportError("This is not a report: it is not a JSON object.")
    schema = _find_schema(document)
    _check_version(document, schema)
    try:
        report = schema.model_validate(document, extra="ignore")
    except ValidationError as error:
        raise ReportError(_describe(error)) from None
    if isinstance(report, GateReport):
        _refuse_contradiction(report)
    return report


def _refuse_contradiction(report: GateReport) -> None:
    """Raise `ReportError` for an outcome that the report's own gates do not give."""
    unmet = [gate.name for gate in report.gates if not gate.is_met]
    is_passed = bool(report.gates) and not unmet
    if is_passed is not (report.outcome is GateOutcome.PASSED):
        named = (
            f"not met: {', '.join(unmet[:_NAMED])}" if unmet else f"{len(report.gates)}, all met"
        )
        raise ReportError(
            f"This report contradicts itself: outcome is {report.outcome}, and its gates are "
            f"{named[:_MOST_CHARACTERS]}. Use the file as excise gate wrote it, or run it again."
        )


def _find_schema(document: dict[str, Any]) -> type[Report]:
    """Return the report's schema: gate runs have an outcome, corrections have no kind."""
    if "outcome" in document:
        return GateReport
    match document.get("kind", JobKind.CORRECTION):
        case JobKind.CORRECTION:
            return CorrectionReport
        case JobKind.CIRCUIT:
            return CircuitReport
        case JobKind.COMPRESSION:
            return CompressionReport
        case kind:
            raise ReportError(
                f"This is a report of the kind {str(kind)[:64]!r}, which this version of Excise "
                "does not know. Use the one that wrote it, or read report.html."
            )


def _check_version(document: dict[str, Any], schema: type[Report]) -> None:
    """Raise `ReportError` for versions that `schema` does not know."""
    known = get_args(schema.model_fields["schema_version"].annotation)
    found = document.get("schema_version")
    if type(found) is not int or found not in known:
        raise ReportError(
            f"This report has the schema version {str(found)[:64]}; this version of Excise reads "
            f"{' and '.join(map(str, known))}. Use the one that wrote it, or read report.html."
        )


def _describe(error: ValidationError) -> str:
    """Return which field is wrong, and how."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"])) or "its JSON"
    return f"This is not a report of a version known here: {place}: {first['msg']}."
