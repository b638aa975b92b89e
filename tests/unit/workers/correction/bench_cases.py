"""A tiny model with two behaviours, and what a search of it works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from excise.names import Ablation, Granularity
from tests.tiny import MODULES, select_neurons
from tests.unit.workers.correction.cases import (
    SAMPLED,
    FunctionScorer,
    build_behaviour,
)
from tests.unit.workers.kinds.correction.correction_inputs import FakeInputs, build_prepared
from workers.attribution.contrastive import ContrastiveRelevance
from workers.correction.amounts import ListedAmounts
from workers.correction.behaviour import Marking
from workers.correction.candidates import Candidates, PoolSize
from workers.correction.preparation import prepare_behaviour
from workers.correction.refinement import Space
from workers.correction.results import PreparedCorrection, TrialSettings
from workers.correction.search import SearchInputs, SearchPlan, build_search_budget
from workers.progress import Advance, Counter, ignore, pass_over
from workers.scorers.scorer import Answer
from workers.scorers.uniqueness import UniquenessScorer

NEURON = Granularity.NEURON
PROMPT_IDS = [(index, 2 * index % 101, 5) for index in range(1, 13)]
PROMPTS = [f"w{one} w{two} w{three}" for one, two, three in PROMPT_IDS]
SETTINGS = TrialSettings(origin="round 1", granularity=NEURON, amount=10)
FIRST = select_neurons({MODULES[0]: list(range(20))})
SECOND = select_neurons({MODULES[1]: list(range(5, 25))})


def score_by_sum(answer: Answer) -> float:
    """Above 0.5 for two answers in five."""
    return (sum(answer.token_ids) % 5) / 6


LOOP = build_behaviour(
    UniquenessScorer(), name="loop", decoding=SAMPLED, threshold=0.9, marking=Marking.REPEATED
)
RUDE = build_behaviour(FunctionScorer(score_by_sum))


def prepare(inputs: FakeInputs, **changes: Any) -> PreparedCorrection:
    return build_prepared(
        *(
            prepare_behaviour(
                inputs.base,
                behaviour,
                PROMPTS,
                PROMPT_IDS,
                inputs.spec.seed,
                Counter(pass_over, ()),
            ).model_copy(update={"explained": None})
            for behaviour in inputs.behaviours
        ),
        **changes,
    )


def inputs_of(
    inputs: FakeInputs,
    prepared: PreparedCorrection,
    relevance: Mapping[Granularity, ContrastiveRelevance] | None = None,
) -> SearchInputs:
    """What a search of the job works on."""
    return SearchInputs(
        base=inputs.base,
        behaviours=inputs.behaviours,
        prepared=prepared,
        relevance=relevance or {},
        attributor=inputs.attributor,
        score=inputs.spec.attribution.score,
        budget=build_search_budget(inputs.budget, prepared.protection),
        seed=inputs.spec.seed,
    )


def candidates_of(
    given: SearchInputs,
    most: int = 40,
    max_rank: int | None = None,
    max_lines: int | None = None,
    advance: Advance = ignore,
    on_pool: Callable[[PoolSize], None] = lambda size: None,
) -> Candidates:
    """The components of a search that prunes `most` of them at most."""
    plan = replace(plan_of(*given.relevance, most=most), max_rank=max_rank, max_lines=max_lines)
    return Candidates(given, plan, advance, on_pool)


def plan_of(*kinds: Granularity, most: int = 40, rounds: int = 1, **changes: Any) -> SearchPlan:
    """A search that prunes `most` components at most."""
    space = Space(dict.fromkeys(kinds, (1, most)), layers=2, ablations=(Ablation.ZERO,))
    amounts = {kind: ListedAmounts((most,)) for kind in kinds}
    own: dict[str, Any] = {"refinements": 0, "max_rank": None} | changes
    return SearchPlan(rounds, amounts, space, **own)
