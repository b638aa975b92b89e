"""Stage 3: which components to prune and how many, measured on tuning data within the budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from workers.attribution.contrastive import ContrastiveRelevance, parse_relevance
from workers.correction.refinement import Space, refine
from workers.correction.results import PreparedCorrection, SearchOutcome, StoredSelection, Trial
from workers.correction.search import (
    BUDGET_SHARE,
    DEFAULT_AMOUNTS,
    DEFAULT_ROUNDS,
    Benefit,
    SearchSteps,
    choose_trial,
    search_rounds,
)
from workers.domain import Granularity
from workers.families import count_layers
from workers.progress import Progress, count_up
from workers.tasks.context import JobContext, StageOutput
from workers.tasks.loading import CorrectionInputs
from workers.tasks.rank_limit import RankLimit
from workers.tasks.search_steps import TuningBench, build_steps, weighs_together

THOROUGH_TRIALS = 24
"""Trials after the rounds when a thorough job does not say how many."""

Benefits = dict[Granularity, list[Benefit]]


def run(
    context: JobContext,
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
        "amounts": {kind.value: _amounts(inputs, kind) for kind in inputs.granularities},
        "max_rank": spec.serving.max_rank,
        "budget": spec.budget.model_dump(mode="json"),
    }
    return context.run_stage(
        "search",
        key,
        lambda progress: _work(context, inputs, prepared, attributed, progress),
    )


def _work(
    context: JobContext,
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
    total = rounds * len(inputs.granularities) + trials + limit.trials + weighs_together(inputs)
    advance = count_up(progress, total)
    bench = TuningBench(context, inputs, prepared, attributed.sha256)
    most_weights = find_range(inputs, Granularity.WEIGHT)[1]
    steps = build_steps(
        context, inputs, relevance, bench, most_weights, lambda: advance(1), limit.remember
    )
    budget = inputs.budget.scaled(BUDGET_SHARE)
    benefits, found = _start(relevance), list[Trial]()
    for kind in inputs.granularities:
        found += search_rounds(benefits[kind], kind, _amounts(inputs, kind), rounds, steps, budget)
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


def _amounts(inputs: CorrectionInputs, granularity: Granularity) -> list[int]:
    given: Any = inputs.spec.search.amounts
    if isinstance(given, Mapping):
        given = given.get(granularity.value)
    return list(given or DEFAULT_AMOUNTS[granularity])


def _count_trials(inputs: CorrectionInputs) -> int:
    search = inputs.spec.search
    return 0 if search.preset == "quick" else search.trials or THOROUGH_TRIALS


def _start(relevance: Mapping[Granularity, ContrastiveRelevance]) -> Benefits:
    """Return what removing each component brings against the base model's own responses."""
    return {
        kind: [behaviour.compute_benefit(behaviour.undesired) for behaviour in contrast.behaviours]
        for kind, contrast in relevance.items()
    }


def _build_space(inputs: CorrectionInputs) -> Space:
    ranges = {kind: find_range(inputs, kind) for kind in inputs.granularities}
    layers = count_layers(inputs.checkpoint.model, inputs.family)
    return Space(ranges, layers, tuple(inputs.spec.search.ablations))


def find_range(inputs: CorrectionInputs, kind: Granularity) -> tuple[int, int]:
    """Return the fewest and the most components that any trial prunes."""
    amounts = _amounts(inputs, kind)
    if not _count_trials(inputs):
        return amounts[0], amounts[-1]
    return max(1, amounts[0] // 2), 2 * amounts[-1]


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
