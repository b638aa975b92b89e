"""Single weights on few rows and columns: how they are chosen and kept to, and what they cost."""

from __future__ import annotations

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
from workers.correction.candidates import POOL_RATIO, Candidates
from workers.correction.line_use import allow_best_lines, count_ranks
from workers.correction.results import LineUse, TrialSettings
from workers.correction.shortlist import Shortlisting
from workers.domain import GeneralCost, Relevance, Selection
from workers.families import LLAMA, find_components, find_layer_numbers, linear_weight
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
    score, size = Score(inputs.spec.attribution.score), POOL_RATIO * 60
    chosen = Shortlisting(score, size, tuple(shapes))
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
    assert 0 < len(chosen) <= 60
    assert use.ranks == count_ranks(chosen, shapes_of(inputs))
    assert 0 < max(use.ranks.values()) <= most
    _, free = rank(inputs, open_candidates(inputs, None), 2)
    assert max(free.ranks.values()) > most
    assert (use.max_rank, free.max_rank, free.forecast) == (most, None, None)


def test_each_ranking_has_lines_of_its_own(inputs: FakeInputs) -> None:
    candidates = open_candidates(inputs, 2, (2, 3))
    found = [rank(inputs, candidates, *seeds) for seeds in ((2, 3), (2,), (3,), (4, 3))]
    assert all(max(use.ranks.values()) <= 2 for _, use in found)
    assert len({str(list_indices(chosen)) for chosen, _ in found}) == len(found)


@by_every_score
def test_what_the_limit_costs_is_said(inputs: FakeInputs, score: Score) -> None:
    inputs = with_spec(inputs, attribution={"score": score})
    chosen, use = rank(inputs, open_candidates(inputs, 1), 2)
    free, free_use = rank(inputs, open_candidates(inputs, None), 2)
    found = use.forecast
    assert found is not None
    assert (found.weights, found.free_rank) == (60, max(free_use.ranks.values()))
    both = {name: set(own) for name, own in list_indices(free).items()}
    kept = {name: set(own) & both.get(name, set()) for name, own in list_indices(chosen).items()}
    assert found.kept == sum(map(len, kept.values()))
    benefit = draw(inputs, 2)
    sums = [
        sum(float(benefit[name].flatten()[own].double().sum()) for name, own in one.indices.items())
        for one in (chosen, free)
    ]
    assert found.benefit == pytest.approx(sums[0] / sums[1])


def test_a_limit_that_keeps_nothing_out_says_so(inputs: FakeInputs) -> None:
    limited, use = rank(inputs, open_candidates(inputs, 200), 2)
    free, _ = rank(inputs, open_candidates(inputs, None), 2)
    assert list_indices(limited) == list_indices(free)
    assert use.forecast is not None
    assert (use.forecast.kept, use.forecast.benefit) == (60, 1.0)


def test_the_lines_are_those_that_hold_most_of_what_is_pruned_without_a_limit() -> None:
    shapes = {"m": torch.Size([4, 5]), "n": torch.Size([3, 3])}
    candidates = Selection(
        WEIGHT, {"m": torch.tensor([0, 1, 7, 12, 17]), "n": torch.tensor([4, 8])}
    )
    # Row 0 holds 5, column 2 holds 6 and a candidate that is worth nothing.
    worth = torch.tensor([2.0, 3.0, 4.0, 2.0, 0.0, 1.0, 2.0])
    allowed = allow_best_lines(candidates, worth, shapes, 1)
    assert allowed.tolist() == [False, False, True, True, True, False, True]
    assert allow_best_lines(candidates, worth, shapes, 2).all()


def test_each_expert_has_lines_of_its_own() -> None:
    """Of two experts with a row and a column each, at other places, in a 4 × 5 matrix."""
    first, second = [5, 6, 7, 8, 9, 12], [20, 22, 27, 32, 37, 39]
    weights = Selection(WEIGHT, {"a": torch.tensor(first + second), "b": torch.tensor([0, 6])})
    shapes = {"a": torch.Size((2, 4, 5)), "b": torch.Size((4, 5))}
    worth = torch.ones(14)
    worth[[5, 6, 11]] = 0.1  # off the best line of either expert
    worth[13] = 2.0
    allowed = allow_best_lines(weights, worth, shapes, 1)
    kept = torch.cat(list(weights.indices.values()))[allowed].tolist()
    assert kept == [5, 6, 7, 8, 9, 22, 27, 32, 37, 6]
    assert bool(allow_best_lines(weights, worth, shapes, 3).all())
    assert count_ranks(weights, shapes) == {"a": 3, "b": 2}


@pytest.mark.parametrize(
    ("places", "rank"),
    [([0, 31, 62], 3), ([0, 1231, 2462], 1), ([0, 1200, 1231, 1262], 3), ([0, 30, 1200, 1201], 1)],
)
def test_the_rank_of_experts_is_that_of_the_one_that_needs_most(
    places: list[int], rank: int
) -> None:
    weights = Selection(WEIGHT, {"a": torch.tensor(places)})
    assert count_ranks(weights, {"a": torch.Size((3, 40, 30))}) == {"a": rank}
