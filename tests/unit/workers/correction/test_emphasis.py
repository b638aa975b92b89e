"""How much each of several behaviours counts in the next round."""

from __future__ import annotations

import pytest

from workers.correction.emphasis import MOST_EMPHASIS, STRONGEST, WEAKEST, shift_emphasis


def test_one_behaviour_has_no_emphasis() -> None:
    assert shift_emphasis((), (0.1,)) == ()
    assert shift_emphasis((), ()) == ()


@pytest.mark.parametrize(
    ("attained", "expected"),
    [
        ((0.8, 1.25), (1.25, 0.8)),
        ((0.8, 0.8), (1.25, 1.25)),
        ((0.1, 4.0), (STRONGEST, WEAKEST)),
        ((-0.3, 0.0), (STRONGEST, STRONGEST)),
        ((1.0, 3.0), (1.0, 1.0)),  # both have what is wanted
    ],
)
def test_what_falls_short_gains_what_has_too_much_loses(
    attained: tuple[float, float], expected: tuple[float, float]
) -> None:
    assert shift_emphasis((), attained) == pytest.approx(expected)


def test_emphasis_adds_up_over_rounds_within_bounds() -> None:
    emphasis: tuple[float, ...] = ()
    for _ in range(9):
        emphasis = shift_emphasis(emphasis, (0.1, 5.0))
    assert emphasis[0] / emphasis[1] == pytest.approx(MOST_EMPHASIS)
    assert shift_emphasis(emphasis, (1.0, 1.0)) == emphasis
    # What was emphasised too much gives way again.
    first, second = shift_emphasis(emphasis, (2.0, 0.5))
    assert first / second == pytest.approx(MOST_EMPHASIS / 4)
