"""Stage 3: choose which components to prune and how many, within the budget, on tuning data."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from excise.names import Granularity
from workers.attribution.contrastive import parse_relevance
from workers.correction.amounts import build_amounts
from workers.correction.bench import TuningBench
from workers.correction.candidates import Candidates
from workers.correction.refinement import Space
from workers.correction.results import PreparedCorrection
from workers.correction.search import (
    Search,
    SearchInputs,
    SearchPlan,
    build_search_budget,
    start_benefits,
)
from workers.kinds.correction.attribute import answer_undesired
from workers.kinds.correction.ranges import (
    count_refinements,
    count_rounds,
    find_ranges,
    list_amounts,
)
from workers.kinds.correction.search_job import SearchReporter, StoredBench
from workers.kinds.correction.search_work import SearchWork
from workers.progress import Counter, Progress
from workers.stages.checks import list_answer_requests
from workers.stages.context import StageContext, StageOutput
from workers.stages.inputs import CorrectionInputs


def run(
    context: StageContext,
    inputs: CorrectionInputs,
    prepared: PreparedCorrection,
    attributed: StageOutput,
) -> StageOutput:
    """Return the stage's result, a `SearchOutcome`."""
    spec = inputs.spec
    ranges = find_ranges(inputs, prepared)
    key = {
        "attribute": attributed.sha256,
        "score": spec.attribution.score,
        "search": spec.search.model_dump(mode="json"),
        "amounts": {kind.value: amounts for kind, amounts in ranges.items()},
        "max_rank": {kind.value: spec.serving.find_limit(kind) for kind in inputs.granularities},
        "budget": spec.budget.model_dump(mode="json"),
        "responses": spec.responses.model_dump(mode="json"),
    }
    return context.run_stage(
        "search",
        key,
        lambda progress: _work(context, inputs, prepared, attributed, progress),
    )


def _work(
    context: StageContext,
    inputs: CorrectionInputs,
    prepared: PreparedCorrection,
    attributed: StageOutput,
    progress: Progress,
) -> bytes:
    is_time_up = _build_clock(inputs.spec.search.max_minutes)
    plan, given = build_plan(inputs, prepared), _collect_inputs(inputs, prepared, attributed)
    work = SearchWork(given, plan)
    counter = Counter(progress, work.list_parts())
    reporter = SearchReporter(context, [behaviour.name for behaviour in inputs.behaviours])
    candidates = Candidates(given, plan, counter, reporter.report_pool)
    places = {
        granularity: contrast.shortlist.components
        for granularity, contrast in given.relevance.items()
        if contrast.shortlist is not None
    }
    answer = partial(answer_undesired, inputs, places, advance=counter)
    bench = TuningBench(given, candidates, answer, counter)
    search = Search(
        StoredBench(context, bench, attributed.sha256, counter, work),
        plan,
        start_benefits(given.relevance),
        given.budget,
        given.seed,
        reporter.report_trial,
    )
    outcome = search.run(is_time_up)
    counter.finish()
    return outcome.to_bytes()


def _collect_inputs(
    inputs: CorrectionInputs, prepared: PreparedCorrection, attributed: StageOutput
) -> SearchInputs:
    modules = {kind: list(inputs.component_counts(kind)) for kind in inputs.granularities}
    return SearchInputs(
        base=inputs.base,
        behaviours=inputs.behaviours,
        prepared=prepared,
        relevance=parse_relevance(attributed.data, modules),
        attributor=inputs.attributor,
        score=inputs.spec.attribution.score,
        budget=build_search_budget(inputs.budget, prepared.protection),
        seed=inputs.spec.seed,
        requests=tuple(list_answer_requests(inputs)),
    )


def build_plan(inputs: CorrectionInputs, prepared: PreparedCorrection) -> SearchPlan:
    """Return what the job's search tries; amounts that the job does not give are left open."""
    search = inputs.spec.search
    return SearchPlan(
        rounds=count_rounds(inputs),
        amounts={
            kind: build_amounts(list_amounts(inputs, kind), kind, prepared.components[kind])
            for kind in inputs.granularities
        },
        space=Space(
            find_ranges(inputs, prepared),
            inputs.base.layers,
            tuple(search.ablations),
        ),
        refinements=count_refinements(inputs),
        max_rank=inputs.spec.serving.find_limit(Granularity.NEURON),
        max_lines=inputs.spec.serving.find_limit(Granularity.WEIGHT),
    )


def _build_clock(max_minutes: float | None) -> Callable[[], bool]:
    """Return a check of whether `max_minutes` have passed since now; always false if None."""
    if max_minutes is None:
        return lambda: False
    end = time.monotonic() + 60 * max_minutes
    return lambda: time.monotonic() > end
