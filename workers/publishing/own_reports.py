"""Whether a report is of the job that made a patch; the card of an export shows both as one."""

from __future__ import annotations

from collections.abc import Iterator

from excise.names import Granularity
from excise.reports.circuit import CircuitReport
from excise.reports.common import JobReport
from excise.reports.compression import CompressionReport
from excise.reports.correction import CorrectionReport, PatchSummary
from workers.pruning.patch import Patch
from workers.pruning.patch_format import PatchVerdict
from workers.pruning.selection import count_by_module, list_indices


def require_own_report(report: JobReport, patch: Patch) -> None:
    """Raise `ValueError`, naming what differs, if the report is not of the patch's job.

    Compared is whatever both hold: the base, the verdict with the unmet gates, the components,
    and the hash of the corrected weights, which older reports lack.
    """
    differing = next(_list_differences(report, patch), None)
    if differing is not None:
        raise ValueError(
            f"the report is of another {differing} than the patch; give the report.json that came "
            "with it"
        )


def _list_differences(report: JobReport, patch: Patch) -> Iterator[str]:
    if report.model.sha256 != patch.base_sha256:
        yield "base"
    judged = PatchVerdict(report.verdict, report.unmet_gates)
    if patch.verdict is not None and patch.verdict != judged:
        yield "verdict"
    if not _has_components(report, patch):
        yield "selection of components"
    if report.corrected_sha256 not in (None, patch.corrected_sha256):
        yield "corrected model"


def _has_components(report: JobReport, patch: Patch) -> bool:
    """Return whether the patch removes the components that the report counts or lists."""
    match report:
        case CorrectionReport():
            return report.patch is not None and _is_summary(report.patch, patch)
        case CircuitReport(circuit=circuit):
            outside = None if circuit is None else circuit.of - circuit.kept
            return (report.granularity, outside) == (patch.granularity, len(patch.selection))
        case CompressionReport():
            zeros = {module.module: module.zeros for module in report.modules if module.zeros}
            counts = count_by_module(patch.selection)
            return patch.granularity is Granularity.WEIGHT and zeros == counts
    return True


def _is_summary(summary: PatchSummary, patch: Patch) -> bool:
    selection = patch.selection
    found = (summary.granularity, summary.counts)
    if found != (patch.granularity, count_by_module(selection)):
        return False
    return not summary.modules or summary.modules == list_indices(selection)
