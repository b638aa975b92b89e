"""The schema of a compression's report.json."""

from __future__ import annotations

from typing import Literal

from excise.names import JobKind
from excise.reports.common import JobReport
from excise.reports.model import ReportModel


class TaskScore(ReportModel):
    """Accuracy on one zero-shot task, with standard errors."""

    questions: int
    accuracy: float
    accuracy_error: float
    normalised_accuracy: float
    """Accuracy with choices ranked by log-likelihood per byte."""
    normalised_accuracy_error: float


class TaskChange(ReportModel):
    """One zero-shot task before and after."""

    name: str
    before: TaskScore
    after: TaskScore


class CorpusPerplexity(ReportModel):
    """Perplexity of one named corpus at one context length, before and after."""

    corpus: str
    context: int
    tokens: int
    before: float
    after: float

    @property
    def increase(self) -> float:
        """Increase relative to the base model."""
        return self.after / self.before - 1


class ModuleZeros(ReportModel):
    """Number of a module's weights that are zero."""

    module: str
    zeros: int
    weights: int


class CompressionReport(JobReport):
    """The whole outcome of a compression, as `report.json` holds it."""

    schema_version: Literal[1] = 1
    kind: Literal[JobKind.COMPRESSION] = JobKind.COMPRESSION
    method: str
    statistic: str
    """The mean over calibration tokens by which the weights were ranked."""
    pattern: str
    sequential: bool
    target_sparsity: float
    achieved_sparsity: float
    """Share of the compressed modules' weights that are zero."""
    calibration: dict[str, str]
    perplexity: CorpusPerplexity
    tasks: list[TaskChange]
    modules: list[ModuleZeros]
    speed_note: str
    files_note: str
    has_patch: bool = False
    """Whether a patch is among the files."""
