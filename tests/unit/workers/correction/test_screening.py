"""Components whose damage is out of proportion are dropped, everything else keeps its place."""

from __future__ import annotations

import torch

from workers.correction.screening import BLOCK, PART, screen_components
from workers.domain import Granularity, Selection
from workers.pruning.ranking import Ranking


def build_ranking(count: int) -> Ranking:
    owners = torch.zeros(count, dtype=torch.int64)
    return Ranking(Granularity.NEURON, ("layer",), owners, torch.arange(count))


def indices_of(ranking: Ranking) -> list[int]:
    return ranking.indices.tolist()


def build_damage(costs: dict[int, float], usual: float = 1.0):
    """Damage adds up over components; those in `costs` do more than the usual."""

    def measure(selection: Selection) -> float:
        return sum(costs.get(index, usual) for index in selection.indices["layer"].tolist())

    return measure


def test_equal_components_all_stay_in_order():
    ranked = build_ranking(3 * BLOCK + 1)
    assert indices_of(screen_components(ranked, build_damage({}))) == indices_of(ranked)


def test_only_the_part_that_does_the_damage_is_dropped():
    ranked = build_ranking(4 * BLOCK)
    culprit = BLOCK + PART
    kept = screen_components(ranked, build_damage({culprit: 50.0}))
    dropped = [index for index in range(4 * BLOCK) if index not in indices_of(kept)]
    assert dropped == [culprit, culprit + 1]
    assert indices_of(kept) == sorted(indices_of(kept))


def test_a_block_measured_as_usual_is_not_measured_again():
    measured: list[int] = []

    def measure(selection: Selection) -> float:
        measured.append(len(selection))
        return float(len(selection))

    screen_components(build_ranking(2 * BLOCK), measure)
    assert measured == [BLOCK, BLOCK]


def test_several_small_excesses_that_only_add_up_are_kept():
    ranked = build_ranking(4 * BLOCK)
    dear = dict.fromkeys(range(BLOCK), 1.9)
    assert indices_of(screen_components(ranked, build_damage(dear))) == indices_of(ranked)


def test_no_candidates():
    assert len(screen_components(build_ranking(0), build_damage({}))) == 0
