"""Which slices are looked at again, with what, and how both looks become one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from transformers import PreTrainedTokenizerFast

from excise.reports.abilities import AbilityChange
from tests.unit.workers.gates.test_abilities import compare, figures, kind_of
from workers.abilities.catalogue import ProbeSource, build_slices
from workers.abilities.copying import SLICES as COPYING
from workers.abilities.source import Purpose
from workers.abilities.state import Abilities
from workers.gates.second_look import (
    MOST_SLICES,
    TIMES_THE_ITEMS,
    add_figures,
    draw_more,
    find_doubtful,
)
from workers.measuring.state import ModelState, Unmeasured

ITEMS = 60


def change_of(name: str, fallen: int, base: int = 32, rise: float = 0.0) -> AbilityChange:
    """`base` of sixty items right, `fallen` fewer after, and so many nats more an item."""
    before = [2] * base + [0] * (ITEMS - base)
    after = [0] * fallen + [2] * (base - fallen) + [0] * (ITEMS - base)
    spread = [rise * (1 + (item % 3)) for item in range(ITEMS)]
    nats = [1 + more for more in spread]
    return compare(figures(before), figures(after, nats), kind_of(name))


KEPT = change_of("kept", 3)
DOUBTFUL = change_of("doubtful", 5)
CERTAIN = change_of("certain", 28)


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ([KEPT], []),
        ([KEPT, DOUBTFUL], ["doubtful"]),
        ([DOUBTFUL, CERTAIN], []),  # the verdict stands: nothing is to be gained
        ([CERTAIN], []),
        ([DOUBTFUL] * MOST_SLICES, ["doubtful"] * MOST_SLICES),
        ([DOUBTFUL] * (MOST_SLICES + 1), []),
        ([change_of("nats", 0, rise=1.0)], []),  # beyond doubt by the other figure
        ([change_of("unable", 2, base=3)], []),  # not gated, so never lost
        ([], []),
    ],
)
def test_slices_that_seem_lost_by_chance_alone_are_looked_at_again(
    changes: Sequence[AbilityChange], again: list[str]
) -> None:
    assert find_doubtful(changes) == again


def test_further_probes_follow_those_of_the_first_look(tokenizer: PreTrainedTokenizerFast) -> None:
    source = ProbeSource(tokenizer, 3, 10, COPYING, None)
    first = source.draw()
    name = next(iter(first))
    doubtful = change_of(name, 5)
    more = draw_more(source, [doubtful, KEPT])
    assert more.keys() == {name}
    purpose = Purpose.VERDICT
    everything = build_slices(tokenizer, purpose, 3, 10 * TIMES_THE_ITEMS, COPYING, None)
    assert first[name] + more[name] == everything[name]
    assert draw_more(None, [doubtful]) == draw_more(source, [KEPT]) == {}


def test_figures_of_both_looks_are_one_measurement() -> None:
    first, second, other = figures([2, 0]), figures([1, 2, 2], [3.0, 4.0, 5.0]), figures([0])
    state = ModelState(responses={}, abilities=Abilities(slices={"a": first, "b": other}))
    found = add_figures(state, {"a": second}).abilities
    assert isinstance(found, Abilities)
    assert found.slices["b"] == other
    assert found.slices["a"].right == (2, 0, 1, 2, 2)
    assert found.slices["a"].nats == (1.0, 1.0, 3.0, 4.0, 5.0)
    assert found.slices["a"].first(2) == first
    assert add_figures(state, {}) is state
    unmeasured = state.model_copy(update={"abilities": Unmeasured(reason="no")})
    assert add_figures(unmeasured, {"a": second}) is unmeasured
