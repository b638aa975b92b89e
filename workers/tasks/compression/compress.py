"""Stage 2 of a compression: weights scored, selected and set to zero."""

from __future__ import annotations

from workers.attribution.attributors import Attributor
from workers.compression.compress import compress
from workers.compression.plan import Calibration, CompressionPlan, NOfM, Pattern, RowShare
from workers.domain import TokenSequence
from workers.families import find_linear_modules
from workers.progress import Progress
from workers.tasks.compression.results import PreparedCompression, pack_masks
from workers.tasks.context import JobContext, StageOutput
from workers.tasks.loading import CompressionInputs

N_OF_M = {"2:4": NOfM(2, 4), "4:8": NOfM(4, 8)}


def run(
    context: JobContext,
    inputs: CompressionInputs,
    prepared: PreparedCompression,
    upstream: str,
) -> StageOutput:
    """Return the stage's result, the packed prune masks of every linear module."""
    spec = inputs.spec
    key = {
        "prepare": upstream,
        "method": spec.method,
        "pattern": spec.pattern,
        "sparsity": spec.target_sparsity,
        "sequential": spec.sequential,
        "seed": spec.seed,
    }
    return context.run_stage("compress", key, lambda progress: _work(inputs, prepared, progress))


def _work(inputs: CompressionInputs, prepared: PreparedCompression, progress: Progress) -> bytes:
    model, family = inputs.checkpoint.model, inputs.family
    samples = [TokenSequence(ids) for ids in prepared.calibration]
    compress(
        model, family, build_plan(inputs), samples, inputs.checkpoint.pad_id, progress=progress
    )
    return pack_masks(find_linear_modules(model, family))


def build_plan(inputs: CompressionInputs) -> CompressionPlan:
    """Return the job's plan as the core takes it."""
    spec = inputs.spec
    pattern: Pattern = N_OF_M.get(spec.pattern) or RowShare(spec.target_sparsity)
    return CompressionPlan(
        attributor=Attributor(spec.method),
        pattern=pattern,
        calibration=Calibration.SEQUENTIAL if spec.sequential else Calibration.ONE_SHOT,
        seed=spec.seed,
    )
