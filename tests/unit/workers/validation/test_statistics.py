"""Intervals: seeded, paired, honest about their coverage, against slow formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from workers.validation.statistics import (
    compute_jackknife_interval,
    compute_paired_share_interval,
    compute_ratio_interval,
    compute_share_interval,
)
from workers.validation.statistics import compute_paired_bootstrap_interval as interval

BEFORE = [0.1, 0.4, 0.2, 0.9, 0.5, 0.3, 0.3, 0.6]
AFTER = [0.5, 0.6, 0.1, 0.9, 0.9, 0.4, 0.8, 0.7]


def test_the_same_seed_gives_the_same_interval() -> None:
    assert interval(BEFORE, AFTER, 3) == interval(BEFORE, AFTER, 3)
    irregular = np.random.default_rng(0).random(30).tolist()
    assert interval(irregular, [0.5] * 30, 3) != interval(irregular, [0.5] * 30, 4)


def test_the_global_generator_is_left_alone() -> None:
    state = np.random.get_state()[1].copy()
    interval(BEFORE, AFTER, 3)
    assert np.array_equal(np.random.get_state()[1], state)


def test_the_interval_surrounds_the_mean_difference() -> None:
    low, high = interval(BEFORE, AFTER, 0)
    assert low < np.mean(AFTER) - np.mean(BEFORE) < high
    assert isinstance(low, float)
    assert isinstance(high, float)


def test_pairs_are_kept() -> None:
    # A constant gain on very unequal prompts: unpaired resampling would give a wide interval.
    before = [0.0, 100.0, 0.0, 100.0]
    after = [value + 1 for value in before]
    assert interval(before, after, 0) == (1.0, 1.0)


def test_swapping_before_and_after_mirrors_the_interval() -> None:
    low, high = interval(BEFORE, AFTER, 5)
    assert interval(AFTER, BEFORE, 5) == pytest.approx((-high, -low))


def test_two_prompts_by_hand() -> None:
    # Means are 0, 1/2 and 1 with probability 1/4, 1/2, 1/4: both tails lie in the corners.
    assert interval([0.0, 0.0], [0.0, 1.0], 0) == (0.0, 1.0)


def test_eight_prompts_by_the_binomial() -> None:
    # k of 8 draws hit the one prompt of 8 that gained: P(k = 0) = 0.34, P(k ≤ 3) = 0.986,
    # P(k ≤ 2) = 0.926, so the interval is [0, 3/8].
    assert interval([0.0] * 8, [1.0] + [0.0] * 7, 0) == pytest.approx((0.0, 3 / 8))


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_one_prompt_gives_a_point(before: float, after: float) -> None:
    low, high = interval([before], [after], 0)
    assert low == high == pytest.approx(after - before)


@pytest.mark.parametrize("count", [2, 7, 40])
def test_no_difference_gives_the_point_zero(count: int) -> None:
    values = np.random.default_rng(count).random(count).tolist()
    assert interval(values, values, 1) == (0.0, 0.0)


@pytest.mark.parametrize(("before", "after"), [([], []), ([1.0], []), ([1.0, 2.0], [1.0])])
def test_unequal_or_empty_input_is_refused(before: list[float], after: list[float]) -> None:
    with pytest.raises(ValueError, match=f"got {len(before)} and {len(after)}"):
        interval(before, after, 0)


def test_the_interval_covers_the_truth_about_as_often_as_promised() -> None:
    generator, truth, hits, trials = np.random.default_rng(0), 0.3, 0, 150
    for trial in range(trials):
        before = generator.random(30)
        after = before + generator.normal(truth, 0.5, 30)
        low, high = interval(before.tolist(), after.tolist(), trial)
        hits += low <= truth <= high
    assert 0.87 <= hits / trials <= 0.99  # the percentile interval is a little narrow at n = 30


def test_more_prompts_narrow_the_interval() -> None:
    def width(count: int) -> float:
        low, high = interval(BEFORE * count, AFTER * count, 0)
        return high - low

    assert width(16) == pytest.approx(width(1) / 4, rel=0.1)


def test_a_ratio_s_interval_surrounds_it_and_keeps_pairs() -> None:
    low, high = compute_ratio_interval(AFTER, BEFORE, 0)
    assert low < sum(AFTER) / sum(BEFORE) < high
    doubled = [2 * value for value in BEFORE]
    assert compute_ratio_interval(doubled, BEFORE, 0) == pytest.approx((2.0, 2.0))
    assert compute_ratio_interval(AFTER, BEFORE, 3) == compute_ratio_interval(AFTER, BEFORE, 3)


def test_draws_without_a_denominator_are_left_out() -> None:
    # Of two units one has a denominator: draws give 1/2 twice or once, never 0/0.
    assert compute_ratio_interval([0.5, 0.0], [1.0, 0.0], 0) == (0.5, 0.5)


@pytest.mark.parametrize("denominators", [[0.0, 0.0], [1.0, -1.0], [1.0], []])
def test_a_ratio_of_nothing_is_refused(denominators: list[float]) -> None:
    with pytest.raises(ValueError, match="need"):
        compute_ratio_interval([1.0, 1.0], denominators, 0)


@pytest.mark.parametrize("count", [5, 60, 200])
def test_unchanged_shares_have_the_interval_that_so_few_prompts_allow(count: int) -> None:
    z = 1.959964
    half = z * z / (count + z * z)
    flags = [False] * count
    assert compute_paired_share_interval(flags, flags) == pytest.approx((-half, half), abs=1e-5)


def test_paired_shares_against_a_slow_search() -> None:
    # Tango's statistic with the restricted estimate found by maximising the likelihood on a grid.
    gained, lost, count = 2, 9, 40
    before = [True] * lost + [False] * (count - lost)
    after = [False] * lost + [True] * gained + [False] * (count - lost - gained)

    def statistic(difference: float) -> float:
        losing = np.linspace(max(0.0, -difference), (1 - difference) / 2, 200_001)[1:-1]
        likelihood = (
            gained * np.log(losing + difference)
            + lost * np.log(losing)
            + (count - gained - lost) * np.log1p(-2 * losing - difference)
        )
        best = losing[np.nanargmax(likelihood)]
        variance = count * (2 * best + difference * (1 - difference))
        return float((gained - lost - count * difference) / np.sqrt(variance))

    low, high = compute_paired_share_interval(before, after)
    assert low < (gained - lost) / count < high
    assert statistic(low) == pytest.approx(1.96, abs=2e-3)
    assert statistic(high) == pytest.approx(-1.96, abs=2e-3)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_paired_shares_mirror_and_surround(pairs: list[tuple[bool, bool]]) -> None:
    before, after = [old for old, _ in pairs], [new for _, new in pairs]
    low, high = compute_paired_share_interval(before, after)
    assert -1 <= low <= (sum(after) - sum(before)) / len(pairs) <= high <= 1
    assert compute_paired_share_interval(after, before) == pytest.approx((-high, -low), abs=1e-9)


def test_a_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).random(25)
    without_one = [float(np.delete(values, index).mean()) for index in range(25)]
    low, high = compute_jackknife_interval(float(values.mean()), without_one)
    error = values.std(ddof=1) / 5
    assert (high - low) / 2 == pytest.approx(1.959964 * error, rel=1e-5)
    assert (low + high) / 2 == pytest.approx(values.mean())
    with pytest.raises(ValueError, match="two prompts"):
        compute_jackknife_interval(0.5, [0.5])


@pytest.mark.parametrize(("found", "count"), [(0, 12), (1, 12), (7, 40), (40, 40)])
def test_a_share_s_interval_is_wilson_s(found: int, count: int) -> None:
    expected = binomtest(found, count).proportion_ci(method="wilson")
    low, high = compute_share_interval(found / count, count)
    assert (low, high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("share", "count"), [(0.5, 0), (-0.1, 3), (1.1, 3)])
def test_a_share_of_nothing_has_no_interval(share: float, count: int) -> None:
    with pytest.raises(ValueError, match="need a share"):
        compute_share_interval(share, count)
