"""A correction: the order of its stages, and the inputs of its report."""

from __future__ import annotations

from excise.reports.correction import CorrectionReport
from excise.specs import CorrectionSpec
from workers.correction.preparation import describe_signal
from workers.correction.results import PreparedCorrection, SearchOutcome, ValidationOutcome
from workers.correction.verdict import ReportFrame, build_report
from workers.kinds.correction import attribute, package, prepare, search, validate
from workers.kinds.correction.ranges import count_rounds, find_ranges
from workers.stages.abilities import list_verdict_kinds
from workers.stages.checks import list_not_asked, list_requests
from workers.stages.context import ShardedWork, StageContext
from workers.stages.inputs import CorrectionInputs
from workers.stages.packaging import list_versions


def run_correction(context: StageContext, inputs: CorrectionInputs) -> CorrectionReport:
    """Run every stage that is needed and not done yet, and return the report."""
    searched: SearchOutcome | None = None
    validated: ValidationOutcome | None = None
    prepare_output = prepare.run(context, inputs)
    prepared = PreparedCorrection.model_validate_json(prepare_output.data)
    if prepared.too_weak is not None:
        for stage in ("attribute", "search", "validate"):
            context.skip_stage(stage, f"Skipped {stage}: the signal is too weak.")
    else:
        _tell_signal(context, prepared)
        attribute_output = attribute.run(context, inputs, prepared, prepare_output)
        search_output = search.run(context, inputs, prepared, attribute_output)
        searched = SearchOutcome.model_validate_json(search_output.data)
        if searched.chosen is None:
            context.skip_stage(
                "validate", "Skipped validate: nothing within the budget improves every behaviour."
            )
        else:
            output = validate.run(context, inputs, prepared, searched, search_output)
            validated = ValidationOutcome.model_validate_json(output.data)
    report = build_report(_frame(context, inputs, prepared), prepared, searched, validated)
    package.run(context, inputs, prepared, report, searched)
    return report


def _tell_signal(context: StageContext, prepared: PreparedCorrection) -> None:
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


def build_sharded_work(inputs: CorrectionInputs, data: bytes) -> ShardedWork:
    """Return the work of the stage `attribute`, built from the result of the stage before it."""
    return attribute.build_work(inputs, PreparedCorrection.model_validate_json(data))


def _frame(
    context: StageContext, inputs: CorrectionInputs, prepared: PreparedCorrection
) -> ReportFrame:
    spec, ranges = inputs.spec, find_ranges(inputs, prepared)
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
        timings=context.load_stage_seconds(),
        most_amounts={kind: most for kind, (_, most) in ranges.items()},
        rounds=count_rounds(inputs),
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
