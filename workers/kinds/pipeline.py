"""What runs a claimed job or shard, by kind; and a correction's stages in order."""

from __future__ import annotations

from excise.specs import CircuitSpec, CompressionSpec, CorrectionSpec
from service.database import Database
from service.jobs.execution import load_stage_seconds
from service.jobs.shards import ShardClaim
from workers.circuits.tasks import TaskError
from workers.correction.preparation import PromptTooLongError, describe_signal
from workers.correction.results import (
    PreparedCorrection,
    SearchOutcome,
    ValidationOutcome,
)
from workers.correction.verdict import ReportFrame, build_report
from workers.families import UnsupportedArchitectureError, UnsupportedGranularityError
from workers.fetching.checkpoints import CheckpointError
from workers.kinds.circuit import discover
from workers.kinds.circuit.pipeline import run_circuit
from workers.kinds.circuit.results import PreparedCircuit
from workers.kinds.compression import compress
from workers.kinds.compression.pipeline import run_compression
from workers.kinds.compression.results import PreparedCompression
from workers.kinds.correction import attribute, package, prepare, search, validate
from workers.running.abilities import list_verdict_kinds
from workers.running.checks import list_not_asked, list_requests
from workers.running.context import (
    InvalidInputError,
    JobContext,
    TaskContext,
    poll_cancellation,
)
from workers.running.loading import CircuitInputs, CompressionInputs, CorrectionInputs
from workers.running.packaging import STATUSES, list_versions
from workers.running.sharding import ShardedWork, complete_shard
from workers.scorers.errors import ScorerError
from workers.settings import WorkerSettings

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
                run_correction(context, spec)
            case CircuitSpec() as spec:
                run_circuit(context, spec)
            case CompressionSpec() as spec:
                run_compression(context, spec)
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
            inputs = CorrectionInputs(context, spec)
            return attribute.build_work(inputs, attribute.cut_parts(inputs, prepared))
        case CircuitSpec() as circuit_spec:
            rows = PreparedCircuit.model_validate_json(data)
            return discover.build_work(CircuitInputs(context, circuit_spec), rows)
        case CompressionSpec() as compression_spec:
            calibrated = PreparedCompression.model_validate_json(data)
            return compress.build_work(CompressionInputs(context, compression_spec), calibrated)


def run_correction(context: JobContext, spec: CorrectionSpec) -> None:
    """Run a correction."""
    inputs = CorrectionInputs(context, spec)
    searched: SearchOutcome | None = None
    validated: ValidationOutcome | None = None
    prepare_output = prepare.run(context, inputs)
    prepared = PreparedCorrection.model_validate_json(prepare_output.data)
    if prepared.too_weak is not None:
        for stage in ("attribute", "search", "validate"):
            context.skip_stage(stage, f"Skipped {stage}: the signal is too weak.")
    else:
        _tell_signal(context, prepared)
        attribute_output = attribute.run(context, inputs, prepared, prepare_output.sha256)
        search_output = search.run(context, inputs, prepared, attribute_output)
        searched = SearchOutcome.model_validate_json(search_output.data)
        if searched.chosen is None:
            context.skip_stage(
                "validate", "Skipped validate: nothing within the budget improves every behaviour."
            )
        else:
            output = validate.run(context, inputs, prepared, searched, search_output.sha256)
            validated = ValidationOutcome.model_validate_json(output.data)
    report = build_report(_frame(context, inputs), prepared, searched, validated)
    package.run(context, inputs, prepared, report, searched)
    context.finish(STATUSES[report.verdict], report.verdict.value, report.reason)


def _tell_signal(context: JobContext, prepared: PreparedCorrection) -> None:
    for behaviour in prepared.behaviours:
        counts = {
            "tuning": len(behaviour.triggering(held_out=False)),
            "held_out": len(behaviour.triggering(held_out=True)),
        }
        context.event(
            "prepare.signal",
            describe_signal(behaviour),
            {"behaviour": behaviour.name, "prompts": len(behaviour.prompts), **counts},
            once=True,
        )


def _frame(context: JobContext, inputs: CorrectionInputs) -> ReportFrame:
    spec = inputs.spec
    timings = context.transact(lambda session: load_stage_seconds(session, context.claim.job_id))
    return ReportFrame(
        behaviours=inputs.behaviours,
        corpus=(
            "held-out reference"
            if spec.perplexity is None
            else inputs.prompt_set(spec.perplexity.prompts).name
        ),
        budget=inputs.budget,
        requests=tuple(list_requests(inputs)),
        not_asked=tuple(list_not_asked(inputs)),
        abilities=spec.gates.abilities,
        kinds=list_verdict_kinds(inputs),
        attribution=_describe_attribution(spec),
        dtype=spec.dtype,
        seed=spec.seed,
        versions=list_versions(),
        model_id=spec.model,
        timings=timings,
        most_amounts={kind: search.find_range(inputs, kind)[1] for kind in inputs.granularities},
        ordinary=tuple(inputs.prompts(spec.reference)),
    )


def _describe_attribution(spec: CorrectionSpec) -> dict[str, str]:
    attribution = spec.attribution
    return {
        "attributor": attribution.attributor,
        "score": attribution.score,
        "granularity": ", ".join(attribution.granularities),
        "reference_tokens": str(attribution.reference_tokens),
        "search": spec.search.preset,
    }
