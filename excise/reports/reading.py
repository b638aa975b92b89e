"""Reading reports written by any version of Excise."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import ValidationError

from excise.errors import UserError
from excise.intake.duplicates import DuplicateKeyError
from excise.intake.json_documents import find_part, is_non_finite, load_json
from excise.names import JobKind
from excise.reports.circuit import CircuitReport
from excise.reports.compression import CompressionReport
from excise.reports.contradictions import list_contradictions
from excise.reports.correction import CorrectionReport
from excise.reports.gate_run import GateReport

Report = CorrectionReport | CircuitReport | CompressionReport | GateReport


class ReportError(UserError):
    """The content is not a report, or a report of an unknown version."""


def read_report(content: bytes) -> Report:
    """Return the report in a job's report.json, or in the gate.json of `excise gate`.

    Fields added by newer versions of Excise are ignored. Corrections of schema version 2, without
    effects relative to the random control, can be read too. Raises `ReportError`, also for a report
    that contradicts itself, that gives a field twice, or whose figures are not finite.
    """
    try:
        document = load_json(content)
    except DuplicateKeyError as error:
        raise ReportError(f"This is not a report: {error}") from None
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
    if place := find_part(report.model_dump(), is_non_finite, "report"):
        raise ReportError(f"This is not a report: {place} is not a finite number.")
    if (found := next(list_contradictions(report), None)) is not None:
        raise ReportError(
            f"This report contradicts itself: {found}. Use the file as Excise wrote it, or run "
            "what it reports again."
        )
    return report


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
