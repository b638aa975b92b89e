"""The earlier run that `excise gate --baseline` names."""

from __future__ import annotations

from pathlib import Path

from excise.intake.local_files import read_file
from excise.reports import read_report
from excise.reports.gate_run import GateReport
from excise.reports.reading import ReportError
from workers.commands.gate.errors import GateConfigError
from workers.commands.gate.output import JSON_NAME
from workers.gates.earlier import compare_runs, judge_not_worse
from workers.gates.remedies import add_remedies
from workers.reports.gate_run import find_outcome


def load_baseline(path: Path) -> GateReport:
    """Return the report of an earlier run: a gate.json, or the folder it lies in.

    Raises `GateConfigError`.
    """
    file = path / JSON_NAME if path.is_dir() else path
    try:
        found = read_report(read_file(file))
    except OSError as error:
        raise GateConfigError(
            f"--baseline: cannot read {file}: {error.strerror}; name the folder of an earlier run, "
            f"or its {JSON_NAME}"
        ) from error
    except ReportError as error:
        raise GateConfigError(f"--baseline: {file}: {error}") from error
    if not isinstance(found, GateReport):
        raise GateConfigError(f"--baseline: {file} is a job's report; name a {JSON_NAME}")
    return found


def add_comparison(report: GateReport, earlier: GateReport, *, is_gate: bool) -> GateReport:
    """Return the report beside the earlier run; with `is_gate` what is clearly worse fails it."""
    comparison = compare_runs(report, earlier)
    gates = list(report.gates)
    if is_gate:
        gates += add_remedies([judge_not_worse(comparison)], of_job=False)
    return report.model_copy(
        update={"comparison": comparison, "gates": gates, "outcome": find_outcome(gates)}
    )
