"""Two models' figures on the same slices: changes, what is gated, and what the gate says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from excise.reports.abilities import AbilityChange
from excise.specs.abilities import AbilitiesGateSpec
from workers.abilities.probe import Area, Right, SliceKind, probe
from workers.abilities.state import Abilities, SliceFigures
from workers.gates.abilities import (
    LEAST_ACCURACY,
    NAMED_LOSSES,
    SHOWS_NOTHING,
    UNMEASURED,
    compare_slices,
    compare_states,
    compute_nats_rise,
    compute_soft_fall,
    judge_abilities,
    score_items,
)
from workers.measuring.state import ModelState, Unmeasured


def kind_of(name: str = "words", right: Right = Right.WHOLE, sentence: str = "") -> SliceKind:
    told = sentence or f"repeat {name}"
    return SliceKind(name, Area.COPYING, told, lambda source: probe("a", "b"), 1, right)


def figures(
    right: Sequence[int],
    nats: Sequence[float] | None = None,
    tokens: Sequence[int] | None = None,
    leads: Sequence[float] | None = None,
) -> SliceFigures:
    """Items of two tokens unless told, one nat each."""
    count = len(right)
    return SliceFigures(
        nats=tuple(nats or [1.0] * count),
        right=tuple(right),
        tokens=tuple(tokens or [2] * count),
        leads=tuple(leads or [0.0] * count),
    )


def compare(
    base: SliceFigures,
    changed: SliceFigures,
    kind: SliceKind | None = None,
    control: SliceFigures | None = None,
    **limits: Any,
) -> AbilityChange:
    own = kind or kind_of()
    (change,) = compare_slices(
        [own],
        {own.name: base},
        {own.name: changed},
        {} if control is None else {own.name: control},
        AbilitiesGateSpec.model_validate(limits),
    )
    return change


HALF = figures([2, 2, 1, 0], [1.0, 2.0, 3.0, 4.0])


def test_a_change_has_both_figures_before_and_after() -> None:
    change = compare(HALF, figures([2, 0, 1, 0], [1.5, 2.5, 3.0, 4.0]))
    assert (change.name, change.area, change.sentence) == ("words", "copying", "repeat words")
    assert change.items == 4
    assert change.nats_before == pytest.approx(10 / 8)
    assert change.nats_change == pytest.approx(1 / 8)
    assert change.nats_interval[0] <= change.nats_change <= change.nats_interval[1]
    assert (change.accuracy_before, change.accuracy_after) == (0.5, 0.25)
    assert change.accuracy_interval[0] <= -0.25 <= change.accuracy_interval[1]
    assert (change.control_nats_change, change.control_accuracy_change) == (None, None)


def test_longer_items_weigh_more_in_nats_a_token() -> None:
    base, changed = (figures([0, 0], nats, [1, 9]) for nats in ([1.0, 9.0], [2.0, 9.0]))
    assert compute_nats_rise(base, changed) == pytest.approx(0.1)
    assert compare(base, changed).nats_before == pytest.approx(1.0)


def test_an_item_is_right_as_a_whole_or_by_its_tokens() -> None:
    assert score_items(kind_of(right=Right.WHOLE), HALF) == [1.0, 1.0, 0.0, 0.0]
    assert score_items(kind_of(right=Right.TOKENS), HALF) == [1.0, 1.0, 0.5, 0.0]
    change = compare(HALF, figures([1, 1, 1, 1]), kind_of(right=Right.TOKENS))
    assert (change.accuracy_before, change.accuracy_after) == (0.625, 0.5)


TWENTY = [2] * 10 + [0] * 10


@pytest.mark.parametrize(
    ("nats", "right", "limits", "within"),
    [
        (0.19, TWENTY, {}, True),  # 0.095 nats a token
        (0.2, TWENTY, {}, True),  # just the limit
        (0.21, TWENTY, {}, False),
        (0.0, [2] * 9 + [0] * 11, {}, True),  # five points
        (0.0, [2] * 8 + [0] * 12, {}, False),
        (-5.0, [2] * 20, {}, True),
        (0.21, TWENTY, {"max_nats_rise": None}, True),
        (0.21, TWENTY, {"max_nats_rise": 0.2}, True),
        (0.0, [0] * 20, {"max_accuracy_fall": None}, True),
        (0.21, TWENTY, {"slices": {"words": {"max_nats_rise": 0.2}}}, True),
        (0.21, TWENTY, {"slices": {"lists": {"max_nats_rise": 0.2}}}, False),
        (0.05, TWENTY, {"slices": {"words": {"max_nats_rise": 0.01}}}, False),
    ],
)
def test_a_slice_is_within_both_of_its_limits_or_not(
    nats: float, right: list[int], limits: dict[str, Any], within: bool
) -> None:
    change = compare(figures(TWENTY), figures(right, [1.0 + nats] * 20), **limits)
    assert change.is_gated
    assert change.within is within


def test_the_limits_that_hold_are_told() -> None:
    limits = {"max_nats_rise": 0.3, "slices": {"words": {"max_accuracy_fall": None}}}
    change = compare(HALF, HALF, **limits)
    assert (change.max_nats_rise, change.max_accuracy_fall) == (0.3, None)
    other = compare(HALF, HALF, kind_of("lists"), **limits)
    assert (other.max_nats_rise, other.max_accuracy_fall) == (0.3, 0.05)


def test_what_the_base_cannot_do_is_said_and_not_gated() -> None:
    worse = figures([0] * 20, [9.0] * 20)
    unable = compare(figures([2] + [0] * 19), worse)
    assert unable.accuracy_before < LEAST_ACCURACY
    assert not unable.is_gated
    assert unable.within
    able = compare(figures([2, 2] + [0] * 18), worse)
    assert able.accuracy_before == LEAST_ACCURACY
    assert able.is_gated
    assert not able.within


def test_a_control_is_compared_on_the_items_that_it_has() -> None:
    base = figures([2, 0, 2, 2], [1.0, 1.0, 5.0, 5.0])
    changed = figures([0, 0, 0, 0], [3.0, 3.0, 9.0, 9.0])
    change = compare(base, changed, control=figures([2, 2], [1.0, 2.0]))
    # The first two items: a nat more on four tokens, and one more right.
    assert change.control_nats_change == pytest.approx(0.25)
    assert change.control_accuracy_change == pytest.approx(0.5)
    assert change.nats_change == pytest.approx(12 / 8)


def test_slices_are_in_the_order_of_the_kinds_and_those_not_asked_left_out() -> None:
    asked = {"lists": HALF, "words": HALF}
    kinds = [kind_of("words"), kind_of("json"), kind_of("lists")]
    found = compare_slices(kinds, asked, asked, {}, AbilitiesGateSpec())
    assert [change.name for change in found] == ["words", "lists"]


def test_other_items_are_not_compared() -> None:
    with pytest.raises(ValueError, match="words was measured on different items"):
        compare(figures([1, 1]), figures([1, 1], tokens=[2, 3]))
    with pytest.raises(ValueError, match="different items"):
        compare(figures([1, 1]), figures([1]))


def test_the_smoothed_fall_is_that_of_the_least_leads() -> None:
    def squash(lead: float) -> float:
        return 1 / (1 + math.exp(-lead))

    base, changed = figures([2, 2], leads=[0.0, 3.0]), figures([0, 2], leads=[-1.0, 4.0])
    expected = (squash(0) - squash(-1) + squash(3) - squash(4)) / 2
    assert compute_soft_fall(base, changed) == pytest.approx(expected)
    assert compute_soft_fall(base, base) == 0.0
    far = figures([0], leads=[-1e4])
    assert compute_soft_fall(figures([2], leads=[1e4]), far) == pytest.approx(1.0)
    assert compute_soft_fall(far, far) == 0.0


# --- states and the gate -----------------------------------------------------------------------


def state_of(abilities: Abilities | Unmeasured | None) -> ModelState:
    return ModelState(abilities=abilities)


ABLE = state_of(Abilities(slices={"words": HALF}))


def test_states_are_compared_where_both_were_measured() -> None:
    (change,) = compare_states([kind_of()], ABLE, ABLE, {"words": HALF}, AbilitiesGateSpec())
    assert change.control_nats_change == 0.0
    assert compare_states([kind_of()], ABLE, ABLE, {}, None) == []
    for other in (None, Unmeasured(reason="other tokens")):
        assert compare_states([kind_of()], ABLE, state_of(other), {}, AbilitiesGateSpec()) == []
        assert compare_states([kind_of()], state_of(other), ABLE, {}, AbilitiesGateSpec()) == []


def test_a_gate_that_was_not_measured_is_not_met() -> None:
    gate = judge_abilities([])
    assert not gate.passed
    assert gate.value is None
    assert gate.unmeasured == UNMEASURED
    assert gate.note is None  # what was not measured says nothing of the base


def test_a_gate_counts_the_slices_beyond_their_limits() -> None:
    kept = compare(HALF, HALF, kind_of("lists"))
    lost = compare(HALF, figures([0, 0, 0, 0], [2.0, 3.0, 4.0, 5.0]))
    met, unmet = judge_abilities([kept]), judge_abilities([kept, lost])
    assert (met.name, met.passed, met.value, met.limit, met.count) == ("abilities", True, 0, 0, 4)
    assert met.note is None
    assert (unmet.passed, unmet.value, unmet.count) == (False, 1.0, 8)
    assert unmet.note == (
        "the model can no longer, or not as well, repeat words (50% → 0% right, +0.50 nats a token)"
    )


def test_the_worst_losses_are_named_first_and_the_rest_counted() -> None:
    base = figures([2] * 20)
    changes = [
        compare(base, figures([2] * (18 - place) + [0] * (2 + place)), kind_of(f"s{place}"))
        for place in range(NAMED_LOSSES + 2)
    ]
    assert not any(change.within for change in changes)
    note = judge_abilities(changes).note
    assert note is not None
    named = [f"s{place}" for place in range(len(changes) - 1, 1, -1)]
    assert [note.index(f"repeat {name} ") for name in named] == sorted(
        note.index(f"repeat {name} ") for name in named
    )
    assert "s0" not in note
    assert "s1" not in note
    assert note.endswith("; and 2 more")


def test_a_base_that_is_able_of_nothing_shows_nothing() -> None:
    unable = compare(figures([0] * 20), figures([0] * 20, [9.0] * 20))
    gate = judge_abilities([unable])
    assert gate.passed
    assert gate.note == SHOWS_NOTHING
    assert gate.count is None


@pytest.mark.parametrize(("after", "within"), [(45, True), (44, False)])
def test_a_fall_of_exactly_the_limit_is_within_it(after: int, within: bool) -> None:
    """48 and then 45 of 60 right differ by a little more than 0.05 in floating point."""
    base, changed = (figures([2] * right + [0] * (60 - right)) for right in (48, after))
    change = compare(base, changed)
    assert change.within is within
    assert judge_abilities([change]).passed is within
