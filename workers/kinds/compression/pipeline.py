"""A compression from claim to verdict: its stages in order, and its report."""

from __future__ import annotations

from excise.reports.common import ModelIdentity
from excise.reports.compression import CompressionReport, CorpusPerplexity, ModuleZeros, TaskChange
from excise.specs import CompressionSpec
from service.jobs.execution import load_stage_seconds
from workers.compression.plan import SPEED_NOTE
from workers.families import find_linear_modules, linear_weight
from workers.kinds.compression import compress, package, prepare
from workers.kinds.compression.measurement import count_work, load_questions, measure
from workers.kinds.compression.results import Measured, PreparedCompression, apply_masks
from workers.progress import Progress, count_up
from workers.reports.compression import judge_compression
from workers.running.context import JobContext, StageOutput
from workers.running.loading import CompressionInputs
from workers.running.packaging import STATUSES, list_versions


def run_compression(context: JobContext, spec: CompressionSpec) -> None:
    """Run the job's stages, those already done excepted, and end it with a verdict."""
    inputs = CompressionInputs(context, spec)
    prepare_output = prepare.run(context, inputs)
    prepared = PreparedCompression.model_validate_json(prepare_output.data)
    masks = compress.run(context, inputs, prepared, prepare_output.sha256)
    after = Measured.model_validate_json(_validate(context, inputs, prepared, masks).data)
    report = build_report(context, inputs, prepared, after)
    package.run(context, inputs, report, masks)
    context.finish(STATUSES[report.verdict], report.verdict.value, report.reason)


def _validate(
    context: JobContext,
    inputs: CompressionInputs,
    prepared: PreparedCompression,
    masks: StageOutput,
) -> StageOutput:
    """Stage 3: the compressed model's figures, measured as the base model's were."""
    modules = find_linear_modules(inputs.checkpoint.model, inputs.family)
    apply_masks(masks.data, modules)  # after a restart the model is loaded as it was

    def work(progress: Progress) -> bytes:
        questions = load_questions(inputs)
        advance = count_up(progress, count_work(prepared.corpus, questions))
        return measure(inputs, prepared.corpus, questions, advance).to_bytes()

    return context.run_stage("validate", {"compress": masks.sha256}, work)


def build_report(
    context: JobContext, inputs: CompressionInputs, prepared: PreparedCompression, after: Measured
) -> CompressionReport:
    """Return the job's report, its files still to be described."""
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
        timings=context.transact(lambda session: load_stage_seconds(session, context.job_id)),
        dtype=spec.dtype,
        seed=spec.seed,
        versions=list_versions(),
        model=ModelIdentity(id=spec.model, sha256=prepared.model_sha256),
    )


def _count_zeros(inputs: CompressionInputs) -> list[ModuleZeros]:
    counted = []
    for name, module in find_linear_modules(inputs.checkpoint.model, inputs.family).items():
        weight = linear_weight(module).detach()
        zeros = int((weight == 0).sum())
        counted.append(ModuleZeros(module=name, zeros=zeros, weights=weight.numel()))
    return counted
