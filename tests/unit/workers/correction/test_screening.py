"""Components whose damage is out of proportion are dropped, everything else keeps its place."""

from __future__ import annotations

from collections.abc import Sequence

from workers.correction.screening import BLOCK, PART, screen_components
from workers.domain import Component


def build_ranking(count: int) -> tuple[Component, ...]:
    return tuple(Component("layer", index) for index in range(count))


def build_damage(costs: dict[int, float], usual: float = 1.0):
    """Damage adds up over components; those in `costs` do more than the usual."""

    def measure(components: Sequence[Component]) -> float:
        return sum(costs.get(component.index, usual) for component in components)

    return measure


def test_equal_components_all_stay_in_order():
    ranked = build_ranking(3 * BLOCK + 1)
    assert screen_components(ranked, build_damage({})) == ranked


def test_only_the_part_that_does_the_damage_is_dropped():
    ranked = build_ranking(4 * BLOCK)
    culprit = BLOCK + PART
    kept = screen_components(ranked, build_damage({culprit: 50.0}))
    dropped = [component.index for component in ranked if component not in kept]
    assert dropped == [culprit, culprit + 1]
    assert list(kept) == sorted(kept)


def test_a_block_measured_as_usual_is_not_measured_again():
    measured: list[int] = []

    def measure(components: Sequence[Component]) -> float:
        measured.append(len(components))
        return float(len(components))

    screen_components(build_ranking(2 * BLOCK), measure)
    assert measured == [BLOCK, BLOCK]


def test_several_small_excesses_that_only_add_up_are_kept():
    ranked = build_ranking(4 * BLOCK)
    dear = dict.fromkeys(range(BLOCK), 1.9)
    assert screen_components(ranked, build_damage(dear)) == ranked


def test_no_candidates():
    assert screen_components((), build_damage({})) == ()
