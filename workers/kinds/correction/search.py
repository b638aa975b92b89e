"""Stage 3: which components to prune and how many, measured on tuning data within the budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from excise.names import Granularity, SearchPreset
from workers.attribution.contrastive import ContrastiveRelevance, parse_relevance
from workers.correction.protection import SEARCH_SHARE
from workers.correction.refinement import Space, refine
from workers.correction.results import PreparedCorrection, SearchOutcome, StoredSelection, Trial
from workers.correction.search import (
    BUDGET_SHARE,
    DEFAULT_ROUNDS,
    Amounts,
    Benefit,
    Budget,
    ListedAmounts,
    OpenAmounts,
    SearchSteps,
    choose_trial,
    search_rounds,
)
from workers.kinds.correction.rank_limit import RankLimit
from workers.kinds.correction.search_pool import weighs_together
from workers.kinds.correction.search_steps import TuningBench, build_steps
from workers.progress import Progress, count_up
from workers.stages.context import StageContext, StageOutput
from workers.stages.inputs import CorrectionInputs

THOROUGH_TRIALS = 24
"""Trials after the rounds when a thorough job does not say how many."""

START_SHARES = {Granularity.NEURON: 2e-3, Granularity.HEAD: 4e-3, Granularity.WEIGHT: 1.5e-4}
"""Share of all components in the first round of an open search: 92 neurons, 1 head and 16,000
weights of SmolLM2, where most searches of benchmarks/RESULTS.md went through."""

MOST_SHARES = {Granularity.NEURON: 1.5e-2, Granularity.HEAD: 5e-2, Granularity.WEIGHT: 3.2e-4}
"""Most of all components that an open search prunes: the budgets of examples and benchmarks were
full before. The pool is `POOL_SHARE` times as large, and time and memory grow with it."""

AMOUNT_SPAN = 64
"""The most components of an open search, divided by the fewest that a refinement tries."""

Benefits = dict[Granularity, list[Benefit]]


def run(
    context: StageContext,
    inputs: CorrectionInputs,
    prepared: PreparedCorrection,
    attributed: StageOutput,
) -> StageOutput:
    """Return the stage's result, a `SearchOutcome`."""
    spec = inputs.spec
    key = {
        "attribute": attributed.sha256,
        "score": spec.attribution.score,
        "search": spec.search.model_dump(mode="json"),
        "amounts": {kind.value: find_range(inputs, kind) for kind in inputs.granularities},
        "max_rank": spec.serving.max_rank,
        "budget": spec.budget.model_dump(mode="json"),
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
    started = time.monotonic()
    search = inputs.spec.search
    relevance = parse_relevance(
        attributed.data,
        {kind: list(inputs.component_counts(kind)) for kind in inputs.granularities},
    )
    rounds, trials = search.rounds or DEFAULT_ROUNDS, _count_trials(inputs)
    limit = RankLimit(inputs.spec.serving.max_rank)
    pools = sum(weighs_together(inputs, kind) for kind in inputs.granularities)
    total = rounds * len(inputs.granularities) + trials + limit.trials + pools
    advance = count_up(progress, total)
    bench = TuningBench(context, inputs, prepared, attributed.sha256)
    most = {kind: find_range(inputs, kind)[1] for kind in inputs.granularities}
    steps = build_steps(context, inputs, relevance, bench, most, lambda: advance(1), limit.remember)
    budget = _build_budget(inputs, prepared)
    benefits, found = _start(relevance), list[Trial]()
    for kind in inputs.granularities:
        amounts = _build_amounts(inputs, prepared, kind)
        found += search_rounds(benefits[kind], kind, amounts, rounds, steps, budget)
    if trials:
        found += refine(
            benefits,
            found,
            _build_space(inputs),
            steps,
            budget,
            trials=trials,
            seed=inputs.spec.seed,
            is_time_up=_build_clock(started, search.max_minutes),
        )
    chosen = choose_trial(found)
    unlimited = None if chosen is None else limit.try_without(found[chosen], steps, budget)
    alone = () if chosen is None else _select_alone(benefits, found[chosen], steps)
    progress(total, total)
    outcome = SearchOutcome(trials=tuple(found), chosen=chosen, alone=alone, unlimited=unlimited)
    return outcome.to_bytes()


def _build_budget(inputs: CorrectionInputs, prepared: PreparedCorrection) -> Budget:
    """Return what the search may use of every limit, those of protected slices among them."""
    budget = inputs.budget.scaled(BUDGET_SHARE)
    slices = {own.name: own.limit.scaled(SEARCH_SHARE) for own in prepared.protection}
    return replace(budget, slices=slices)


def _list_amounts(inputs: CorrectionInputs, granularity: Granularity) -> list[int] | None:
    given: Any = inputs.spec.search.amounts
    if isinstance(given, Mapping):
        given = given.get(granularity.value)
    return None if given is None else list(given)


def _build_amounts(
    inputs: CorrectionInputs, prepared: PreparedCorrection, granularity: Granularity
) -> Amounts:
    """Return the amounts that the job names, else those that the search finds."""
    listed = _list_amounts(inputs, granularity)
    if listed is not None:
        return ListedAmounts(listed)
    share, most = START_SHARES[granularity], find_range(inputs, granularity)[1]
    start = max(1, round(share * prepared.components[granularity]))
    return OpenAmounts(min(start, most), most)


def _count_trials(inputs: CorrectionInputs) -> int:
    search = inputs.spec.search
    return 0 if search.preset == SearchPreset.QUICK else search.trials or THOROUGH_TRIALS


def _start(relevance: Mapping[Granularity, ContrastiveRelevance]) -> Benefits:
    """Return what removing each component brings against the base model's own responses."""
    return {
        kind: [behaviour.compute_benefit(behaviour.undesired) for behaviour in contrast.behaviours]
        for kind, contrast in relevance.items()
    }


def _build_space(inputs: CorrectionInputs) -> Space:
    ranges = {kind: find_range(inputs, kind) for kind in inputs.granularities}
    layers = inputs.base.layers
    return Space(ranges, layers, tuple(inputs.spec.search.ablations))


def find_range(inputs: CorrectionInputs, kind: Granularity) -> tuple[int, int]:
    """Return the fewest and the most components that any trial prunes."""
    listed = _list_amounts(inputs, kind)
    if listed is None:
        everything = sum(inputs.component_counts(kind).values())
        most = max(1, round(MOST_SHARES[kind] * everything))
        return max(1, most // AMOUNT_SPAN), most
    if not _count_trials(inputs):
        return listed[0], listed[-1]
    return max(1, listed[0] // 2), 2 * listed[-1]


def _build_clock(started: float, max_minutes: float | None) -> Callable[[], bool]:
    if max_minutes is None:
        return lambda: False
    return lambda: time.monotonic() - started > 60 * max_minutes


def _select_alone(
    benefits: Benefits, trial: Trial, steps: SearchSteps
) -> tuple[StoredSelection, ...]:
    """Return for each of several behaviours the selection of the trial's settings for it alone."""
    own = benefits[trial.settings.granularity]
    if len(own) < 2:
        return ()
    return tuple(
        StoredSelection.from_selection(steps.rank([benefit], trial.settings).top(trial.amount))
        for benefit in own
    )
