"""Parts common to all kinds of reports."""

from __future__ import annotations

from excise.names import Verdict
from excise.reports.gates import GateResult
from excise.reports.model import ReportModel


class ModelIdentity(ReportModel):
    """The identity of a checkpoint; `sha256` is the hash of its weights (see `pruning.patch`)."""

    id: str
    sha256: str


class JobReport(ReportModel):
    """Fields common to the reports of all kinds of jobs."""

    verdict: Verdict
    reason: str
    """One sentence that explains the verdict."""
    gates: list[GateResult]
    timings: dict[str, float]
    """Stage → its duration in seconds."""
    dtype: str = "float32"
    """Number format in which the model was computed."""
    seed: int
    versions: dict[str, str]
    model: ModelIdentity
    corrected_sha256: str | None = None
    """The hash of the changed weights, in the patch or given whole; null without them and in older
    reports."""

    @property
    def unmet_gates(self) -> tuple[str, ...]:
        """Names of the gates that are not met."""
        return tuple(gate.name for gate in self.gates if not gate.is_met)
