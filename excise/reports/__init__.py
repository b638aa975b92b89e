"""What report.json says, one schema a kind of job, and gate.json; `read_report` reads them all."""

from excise.reports.abilities import AbilityChange, AbilityFigures
from excise.reports.circuit import CircuitReport
from excise.reports.common import JobReport, ModelIdentity
from excise.reports.compression import CompressionReport
from excise.reports.correction import CorrectionReport
from excise.reports.gate_run import GateReport
from excise.reports.gates import GateResult
from excise.reports.reading import Report, ReportError, read_report

__all__ = [
    "AbilityChange",
    "AbilityFigures",
    "CircuitReport",
    "CompressionReport",
    "CorrectionReport",
    "GateReport",
    "GateResult",
    "JobReport",
    "ModelIdentity",
    "Report",
    "ReportError",
    "read_report",
]
