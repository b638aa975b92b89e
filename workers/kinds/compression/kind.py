"""How a worker runs compressions."""

from __future__ import annotations

from excise.reports.common import JobReport
from excise.specs import CompressionSpec
from workers.compression.compress import NonFiniteScoreError
from workers.kinds.compression.pipeline import build_sharded_work, run_compression
from workers.kinds.kind import INVALID_INPUT, Kind
from workers.running.context import JobContext, TaskContext
from workers.running.loading import CompressionJobInputs
from workers.stages.context import ShardedWork


def _run(context: JobContext, spec: CompressionSpec) -> JobReport:
    return run_compression(context, CompressionJobInputs(context, spec))


def _build_sharded_work(context: TaskContext, spec: CompressionSpec, data: bytes) -> ShardedWork:
    return build_sharded_work(CompressionJobInputs(context, spec), data)


COMPRESSION = Kind(
    CompressionSpec, _run, _build_sharded_work, (*INVALID_INPUT, NonFiniteScoreError)
)
