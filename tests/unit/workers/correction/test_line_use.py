"""Single weights on few rows and columns: chosen once, kept to, counted, and what it may cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from excise.names import Granularity, Score
from tests.unit.workers.correction.bench_cases import LOOP, RUDE, candidates_of, inputs_of, prepare
from tests.unit.workers.kinds.correction.correction_inputs import FakeInputs, with_spec
from workers.attribution.contrastive import (
    BehaviourRelevance,
    ContrastiveRelevance,
    parse_relevance,
    serialise_relevance,
)
from workers.correction.candidates import POOL_SHARE, Candidates
from workers.correction.line_use import count_ranks
from workers.correction.results import LineUse, TrialSettings
from workers.correction.shortlist import Shortlisting
from workers.domain import GeneralCost, Relevance, Selection
from workers.families import LLAMA, find_components, find_layer_numbers, linear_weight
from workers.pruning.lines import find_cover
from workers.pruning.selection import list_indices

WEIGHT = Granularity.WEIGHT
SETTINGS = TrialSettings(origin="round 1", granularity=WEIGHT, amount=60)

by_every_score = pytest.mark.parametrize("score", list(Score))
"""The first weighs weights together, the others one by one."""


@pytest.fixture
def inputs() -> FakeInputs:
    return FakeInputs((LOOP, RUDE))


def shapes_of(inputs: FakeInputs) -> dict[str, torch.Size]:
    modules = find_components(inputs.model, LLAMA, WEIGHT)
    return {name: linear_weight(module).shape for name, module in modules.items()}


def draw(inputs: FakeInputs, seed: int) -> dict[str, torch.Tensor]:
    """Random positive values of every weight, a few of them large."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(shape, generator=generator).pow(4)
        for name, shape in shapes_of(inputs).items()
    }


def build_layer(inputs: FakeInputs, names: list[str], *seeds: int) -> ContrastiveRelevance:
    """The relevance of all weights of some modules: costs, and a behaviour's benefits a seed."""
    costs = {name: draw(inputs, 1)[name] for name in names}
    nothing = {name: torch.zeros_like(values) for name, values in costs.items()}
    general: Relevance | GeneralCost = GeneralCost(nothing, costs, 1, 1)
    if inputs.spec.attribution.score is not Score.BENEFIT_DAMAGE:
        general = Relevance(nothing, costs, 1, 1, costs)
    undesired = [{name: draw(inputs, seed)[name] for name in names} for seed in seeds]
    return ContrastiveRelevance(general, tuple(BehaviourRelevance(own, {}) for own in undesired))


def open_candidates(
    inputs: FakeInputs, max_lines: int | None, seeds: tuple[int, ...] = (2,)
) -> Candidates:
    """Candidates of what a shortlisting keeps of all layers, the top one first."""
    shapes = shapes_of(inputs)
    layers = find_layer_numbers(shapes, LLAMA)
    score, size = Score(inputs.spec.attribution.score), POOL_SHARE * 60
    chosen = Shortlisting(score, size, tuple(shapes), max_lines)
    for layer in sorted(set(layers.values()), reverse=True):
        names = [name for name, number in layers.items() if number == layer]
        chosen.add_layer(layer, build_layer(inputs, names, *seeds))
    data = serialise_relevance({WEIGHT: chosen.finish()})
    relevance = parse_relevance(data, {WEIGHT: tuple(shapes)})
    return candidates_of(inputs_of(inputs, prepare(inputs), relevance), 60, max_lines=max_lines)


def rank(inputs: FakeInputs, candidates: Candidates, *seeds: int) -> tuple[Selection, LineUse]:
    """What is ranked by benefits drawn from the seeds, at the places that were kept."""
    relevance = candidates._inputs.relevance[WEIGHT]
    assert relevance.shortlist is not None
    kept = relevance.shortlist.components.indices
    benefits = [
        {name: draw(inputs, seed)[name].flatten()[places] for name, places in kept.items()}
        for seed in seeds
    ]
    ranked = candidates.rank(benefits, SETTINGS)
    assert ranked.lines is not None
    return ranked.ranking.top(SETTINGS.amount), ranked.lines


@by_every_score
@pytest.mark.parametrize("most", [1, 3])
def test_pruned_weights_lie_on_no_more_lines_than_are_allowed(
    inputs: FakeInputs, most: int, score: Score
) -> None:
    inputs = with_spec(inputs, attribution={"score": score})
    chosen, use = rank(inputs, open_candidates(inputs, most), 2)
    assert len(chosen) == 60
    assert use.ranks == count_ranks(chosen, shapes_of(inputs))
    assert 0 < max(use.ranks.values()) <= most
    _, free = rank(inputs, open_candidates(inputs, None), 2)
    assert max(free.ranks.values()) > most
    assert (use.max_rank, free.max_rank, free.forecast) == (most, None, None)


def test_later_rounds_and_behaviours_alone_stay_on_the_same_lines(inputs: FakeInputs) -> None:
    candidates = open_candidates(inputs, 2, (2, 3))
    found = [rank(inputs, candidates, *seeds)[0] for seeds in ((2, 3), (2,), (3,), (4, 3))]
    for name, shape in shapes_of(inputs).items():
        united = np.unique(
            np.concatenate(
                [own.indices[name].numpy() for own in found if name in own.indices]
                or [np.empty(0, np.int64)]
            )
        )
        assert len(find_cover(united // shape[1], united % shape[1])) <= 2
    assert list_indices(found[1]) != list_indices(found[2])


def test_what_the_lines_hold_of_the_best_weights_is_said(inputs: FakeInputs) -> None:
    candidates = open_candidates(inputs, 1)
    found = rank(inputs, candidates, 2)[1].forecast
    assert found is not None
    assert 0 < found.within < found.weights
    assert 0 < found.score < 1
    assert found.free_rank > 1
    assert rank(inputs, candidates, 3)[1].forecast == found  # of the scores that chose them


def test_a_limit_that_keeps_nothing_out_says_so(inputs: FakeInputs) -> None:
    found = rank(inputs, open_candidates(inputs, 200), 2)[1].forecast
    assert found is not None
    assert (found.within, found.score) == (found.weights, 1.0)


def test_a_shortlisting_that_goes_on_has_the_same_lines(inputs: FakeInputs) -> None:
    shapes = shapes_of(inputs)
    layers = find_layer_numbers(shapes, LLAMA)

    def names_of(layer: int) -> list[str]:
        return [name for name, number in layers.items() if number == layer]

    whole = Shortlisting(Score.BENEFIT_DAMAGE, 180, tuple(shapes), 1)
    whole.add_layer(1, build_layer(inputs, names_of(1), 2))
    again = Shortlisting(Score.BENEFIT_DAMAGE, 180, tuple(shapes), 1)
    again.restore(whole.to_bytes())
    for own in (whole, again):
        own.add_layer(0, build_layer(inputs, names_of(0), 2))
    first, second = whole.finish().shortlist, again.finish().shortlist
    assert first is not None
    assert second is not None
    assert first.lines == second.lines
    assert list_indices(first.components) == list_indices(second.components)
