"""What reports of every kind have in common."""

from __future__ import annotations

from excise.names import Verdict
from excise.reports.gates import GateResult
from excise.reports.model import ReportModel


class ModelIdentity(ReportModel):
    """Which checkpoint was corrected; `sha256` is over its weights (see `pruning.patch`)."""

    id: str
    sha256: str


class JobReport(ReportModel):
    """What the report of a job of any kind says."""

    verdict: Verdict
    reason: str
    """One sentence: why this verdict."""
    gates: list[GateResult]
    timings: dict[str, float]
    """Seconds by stage."""
    dtype: str = "float32"
    """What the model was computed in."""
    seed: int
    versions: dict[str, str]
    model: ModelIdentity
