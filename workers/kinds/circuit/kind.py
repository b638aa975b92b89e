"""How a worker runs circuit jobs."""

from __future__ import annotations

from excise.reports.common import JobReport
from excise.specs import CircuitSpec
from workers.circuits.tasks import TaskError
from workers.kinds.circuit.pipeline import build_sharded_work, run_circuit
from workers.kinds.kind import INVALID_INPUT, Kind
from workers.running.context import JobContext, TaskContext
from workers.running.loading import CircuitJobInputs
from workers.stages.context import ShardedWork


def _run(context: JobContext, spec: CircuitSpec) -> JobReport:
    return run_circuit(context, CircuitJobInputs(context, spec))


def _build_sharded_work(context: TaskContext, spec: CircuitSpec, data: bytes) -> ShardedWork:
    return build_sharded_work(CircuitJobInputs(context, spec), data)


CIRCUIT = Kind(CircuitSpec, _run, _build_sharded_work, (*INVALID_INPUT, TaskError))
