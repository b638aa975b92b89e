"""What a slice lost, and how much more of it other items may lose."""

from __future__ import annotations

from statistics import fmean, stdev

import pytest

from workers.abilities.encoding import EncodedProbe
from workers.abilities.state import SliceFigures
from workers.correction.results import SliceDamage
from workers.correction.slice_damage import compare_slice
from workers.domain import TokenSequence

T_95 = {1: 6.314, 2: 2.920, 3: 2.353, 7: 1.895, 11: 1.796}
"""Student's t, one-sided, by degrees of freedom (Fisher and Yates 1963, table III)."""


def probe_of(*answer: int, spans: tuple[int, ...] | None = None, given: int = 1) -> EncodedProbe:
    """A probe whose answer follows a token that is given and another that is no target."""
    sample = TokenSequence((given,), (99, *answer), (False, *(True,) * len(answer)))
    return EncodedProbe(sample, spans or (len(answer),))


def figures(nats: list[float], tokens: list[int] | None = None, lead: float = 0.0) -> SliceFigures:
    count = len(nats)
    return SliceFigures(
        nats=tuple(nats),
        right=(0,) * count,
        tokens=tuple(tokens or [1] * count),
        leads=(lead,) * count,
    )


def compare(
    probes: list[EncodedProbe], rises: list[float], tokens: list[int] | None = None
) -> SliceDamage:
    before = figures([2.0] * len(rises), tokens)
    return compare_slice(probes, before, figures([2.0 + rise for rise in rises], tokens))


def test_a_slice_has_lost_the_mean_of_its_items() -> None:
    probes = [probe_of(5), probe_of(6, 7)]
    before, after = figures([1.0, 3.0], [1, 2], lead=2.0), figures([1.3, 3.6], [1, 2], lead=0.0)
    found = compare_slice(probes, before, after)
    assert found.nats_rise == pytest.approx(0.9 / 3)
    assert found.accuracy_fall == pytest.approx(0.8807971 - 0.5)


@pytest.mark.parametrize("count", [2, 3, 4, 8, 12])
def test_the_margin_is_that_of_the_mean_of_different_answers(count: int) -> None:
    rises = [0.1 * (place % 3) - 0.05 * place for place in range(count)]
    found = compare([probe_of(5 + place) for place in range(count)], rises)
    assert found.nats_rise == pytest.approx(fmean(rises))
    expected = T_95[count - 1] * stdev(rises) / count**0.5
    assert found.nats_margin == pytest.approx(expected, rel=1e-3)


def test_questions_with_one_answer_count_as_one() -> None:
    """Twelve questions for three capitals tell as much of others as three that are as sure."""
    rises = [0.3, -0.1, 0.1]
    probes = [probe_of(5 + place % 3, given=place) for place in range(12)]
    found = compare(probes, rises * 4)
    fewer = compare([probe_of(5), probe_of(6), probe_of(7)], rises)
    assert found.nats_rise == pytest.approx(fewer.nats_rise)
    assert found.nats_margin == pytest.approx(fewer.nats_margin)
    different = compare([probe_of(5 + place) for place in range(12)], rises * 4)
    assert different.nats_margin < found.nats_margin / 2


def test_items_of_one_probe_count_as_one_whatever_their_number() -> None:
    probes = [probe_of(5, 6, spans=(1, 1)), probe_of(7, 8, spans=(0, 2)), probe_of(9, 10)]
    found = compare(probes, [0.2, 0.4, 0.1, 0.3], [1, 1, 2, 2])
    rises = [0.6, 0.1, 0.3]
    assert found.nats_rise == pytest.approx(1.0 / 6)
    assert found.nats_margin == pytest.approx(
        T_95[2] * stdev(rises) / 3**0.5 / 2, rel=1e-3
    )  # of two tokens each


def test_long_answers_weigh_by_their_tokens() -> None:
    """An answer that rises as much a token as all others adds nothing to the margin."""
    even = compare([probe_of(5), probe_of(6, 7, 8), probe_of(9, 10)], [0.1, 0.3, 0.2], [1, 3, 2])
    assert even.nats_margin == pytest.approx(0, abs=1e-9)
    uneven = compare([probe_of(5), probe_of(6, 7, 8), probe_of(9, 10)], [0.3, 0.1, 0.2], [1, 3, 2])
    assert uneven.nats_margin > 0.1


def test_where_nothing_changed_there_is_no_margin_and_one_answer_tells_of_no_other() -> None:
    assert compare([probe_of(5), probe_of(6)], [0.0, 0.0]) == SliceDamage(
        nats_rise=0, accuracy_fall=0
    )
    assert compare([probe_of(5), probe_of(5, given=2)], [0.1, 0.4]).nats_margin == 0.0
