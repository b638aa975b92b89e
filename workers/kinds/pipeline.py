"""What runs a claimed job or shard, by kind."""

from __future__ import annotations

from excise.specs import CircuitSpec, CompressionSpec, CorrectionSpec
from service.database import Database
from service.jobs.shards import ShardClaim
from workers.circuits.tasks import TaskError
from workers.correction.preparation import PromptTooLongError
from workers.correction.results import (
    PreparedCorrection,
)
from workers.families import UnsupportedArchitectureError, UnsupportedGranularityError
from workers.kinds.circuit import discover
from workers.kinds.circuit.pipeline import run_circuit
from workers.kinds.circuit.results import PreparedCircuit
from workers.kinds.compression import compress
from workers.kinds.compression.pipeline import run_compression
from workers.kinds.compression.results import PreparedCompression
from workers.kinds.correction import attribute
from workers.kinds.correction.pipeline import run_correction
from workers.models.checkpoints import CheckpointError
from workers.running.context import JobContext, TaskContext, poll_cancellation
from workers.running.loading import CircuitJobInputs, CompressionJobInputs, CorrectionJobInputs
from workers.running.sharding import ShardedWork, complete_shard
from workers.scorers.errors import ScorerError
from workers.settings import WorkerSettings
from workers.stages.context import InvalidInputError

INVALID_INPUT = (
    CheckpointError,
    PromptTooLongError,
    ScorerError,
    TaskError,
    UnsupportedArchitectureError,
    UnsupportedGranularityError,
)
"""What the core raises when the job's own input is at fault; the messages name the remedy."""


def run_job(context: JobContext) -> None:
    """Run the job's stages, those already done excepted, and end it with a verdict.

    Raises `InvalidInputError`, `CancelledJobError`, `LeaseLostError` and the service's errors.
    """
    try:
        match context.spec:
            case CorrectionSpec() as spec:
                run_correction(context, CorrectionJobInputs(context, spec))
            case CircuitSpec() as spec:
                run_circuit(context, CircuitJobInputs(context, spec))
            case CompressionSpec() as spec:
                run_compression(context, CompressionJobInputs(context, spec))
    except INVALID_INPUT as error:
        raise InvalidInputError(str(error)) from error


def run_shard(database: Database, settings: WorkerSettings, claim: ShardClaim) -> None:
    """Do one shard of another worker's job and file its result; raises as `run_job` does."""
    with TaskContext(database, settings, claim.job_id, claim.tenant_id, claim.spec) as context:
        try:
            work = build_sharded_work(context, claim)
            complete_shard(context, claim, work, poll_cancellation(context))
        except INVALID_INPUT as error:
            raise InvalidInputError(str(error)) from error


def build_sharded_work(context: TaskContext, claim: ShardClaim) -> ShardedWork:
    """The work the shard is a part of, from the artifact its stage works from."""
    data = context.store.get(claim.input_sha256)
    match context.spec:
        case CorrectionSpec() as spec:
            prepared = PreparedCorrection.model_validate_json(data)
            inputs = CorrectionJobInputs(context, spec)
            return attribute.build_work(inputs, attribute.cut_parts(inputs, prepared))
        case CircuitSpec() as circuit_spec:
            rows = PreparedCircuit.model_validate_json(data)
            return discover.build_work(CircuitJobInputs(context, circuit_spec), rows)
        case CompressionSpec() as compression_spec:
            calibrated = PreparedCompression.model_validate_json(data)
            return compress.build_work(CompressionJobInputs(context, compression_spec), calibrated)
