"""A compression: the order of its stages, and its report."""

from __future__ import annotations

from excise.reports.common import ModelIdentity
from excise.reports.compression import CompressionReport, CorpusPerplexity, ModuleZeros, TaskChange
from workers.compression.plan import SPEED_NOTE
from workers.compression.verdict import judge_compression
from workers.families import linear_weight
from workers.kinds.compression import compress, package, prepare, validate
from workers.kinds.compression.results import Measured, PreparedCompression
from workers.stages.context import ShardedWork, StageContext
from workers.stages.inputs import CompressionInputs
from workers.stages.packaging import list_versions


def run_compression(context: StageContext, inputs: CompressionInputs) -> CompressionReport:
    """Run every stage that is not done yet, and return the report."""
    prepare_output = prepare.run(context, inputs)
    prepared = PreparedCompression.model_validate_json(prepare_output.data)
    masks = compress.run(context, inputs, prepared, prepare_output)
    validate_output = validate.run(context, inputs, prepared, masks)
    after = Measured.model_validate_json(validate_output.data)
    report = build_report(context, inputs, prepared, after)
    package.run(context, inputs, report, masks)
    return report


def build_sharded_work(inputs: CompressionInputs, data: bytes) -> ShardedWork:
    """Return the work of the stage `compress`, built from the result of the stage before it."""
    return compress.build_work(inputs, PreparedCompression.model_validate_json(data))


def build_report(
    context: StageContext, inputs: CompressionInputs, prepared: PreparedCompression, after: Measured
) -> CompressionReport:
    """Return the job's report; its files are described later."""
    spec, before = inputs.spec, prepared.before
    perplexity = CorpusPerplexity(
        corpus=inputs.prompt_set(spec.perplexity.prompts).name,
        context=spec.perplexity.context,
        tokens=after.tokens,
        before=before.perplexity,
        after=after.perplexity,
    )
    verdict, reason, gates = judge_compression(perplexity, spec.budget.perplexity_increase)
    modules = _count_zeros(inputs)
    return CompressionReport(
        verdict=verdict,
        reason=reason,
        method=spec.method,
        statistic=spec.statistic,
        pattern=spec.pattern,
        sequential=spec.sequential,
        target_sparsity=spec.target_sparsity,
        achieved_sparsity=sum(m.zeros for m in modules) / sum(m.weights for m in modules),
        calibration={
            "prompts": inputs.prompt_set(spec.calibration.prompts).name,
            "samples": str(spec.calibration.samples),
            "tokens": str(spec.calibration.tokens),
        },
        perplexity=perplexity,
        tasks=[
            TaskChange(name=name, before=before.tasks[name], after=score)
            for name, score in after.tasks.items()
        ],
        modules=modules,
        gates=gates,
        speed_note=SPEED_NOTE,
        files_note="",
        timings=context.load_stage_seconds(),
        dtype=spec.dtype,
        seed=spec.seed,
        versions=list_versions(),
        model=ModelIdentity(id=spec.model, sha256=prepared.model_sha256),
    )


def _count_zeros(inputs: CompressionInputs) -> list[ModuleZeros]:
    counted = []
    for name, module in inputs.base.find_linear_modules().items():
        weight = linear_weight(module).detach()
        zeros = int((weight == 0).sum())
        counted.append(ModuleZeros(module=name, zeros=zeros, weights=weight.numel()))
    return counted
