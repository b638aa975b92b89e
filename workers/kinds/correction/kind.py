"""How a worker runs corrections."""

from __future__ import annotations

from excise.reports.common import JobReport
from excise.specs import CorrectionSpec
from workers.correction.preparation import PromptTooLongError
from workers.kinds.correction.pipeline import build_sharded_work, run_correction
from workers.kinds.kind import INVALID_INPUT, Kind
from workers.running.context import JobContext, TaskContext
from workers.running.loading import CorrectionJobInputs
from workers.scorers.errors import ScorerError
from workers.stages.context import ShardedWork


def _run(context: JobContext, spec: CorrectionSpec) -> JobReport:
    return run_correction(context, CorrectionJobInputs(context, spec))


def _build_sharded_work(context: TaskContext, spec: CorrectionSpec, data: bytes) -> ShardedWork:
    return build_sharded_work(CorrectionJobInputs(context, spec), data)


CORRECTION = Kind(
    CorrectionSpec, _run, _build_sharded_work, (*INVALID_INPUT, PromptTooLongError, ScorerError)
)
