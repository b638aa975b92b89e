"""Intervals: seeded, paired, honest about their coverage, against slow formulas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import binomtest
from scipy.stats import t as student

from workers.measuring.statistics import (
    SHARE_CHANGE,
    UNBOUNDED,
    compute_jackknife_interval,
    compute_paired_interval,
    compute_paired_share_interval,
    compute_ratio_interval,
    compute_share_interval,
)
from workers.measuring.statistics import compute_change_interval as interval

BEFORE = [0.1, 0.4, 0.2, 0.9, 0.5, 0.3, 0.3, 0.6]
AFTER = [0.5, 0.6, 0.1, 0.9, 0.9, 0.4, 0.8, 0.7]
FINITE = st.floats(-1, 1, allow_subnormal=False)


def test_the_interval_surrounds_the_mean_difference() -> None:
    low, high = interval(BEFORE, AFTER)
    assert low < np.mean(AFTER) - np.mean(BEFORE) < high
    assert isinstance(low, float)
    assert isinstance(high, float)


def test_the_same_values_give_the_same_interval_without_random_numbers() -> None:
    state = np.random.get_state()[1].copy()
    assert interval(BEFORE, AFTER) == interval(BEFORE, AFTER)
    assert np.array_equal(np.random.get_state()[1], state)


def test_swapping_before_and_after_mirrors_the_interval() -> None:
    low, high = interval(BEFORE, AFTER)
    assert interval(AFTER, BEFORE) == pytest.approx((-high, -low))


@pytest.mark.parametrize(
    ("values", "bounds"),
    [
        ([0.2, -0.1, 0.4, 0.0, 0.0, 0.3], (-1.0, 1.0)),
        ([1.0, 1.0, 0.0, -1.0, 0.0], (-1.0, 1.0)),
        ([0.31, 0.3, 0.32, 0.29, 0.3], (-1.0, 1.0)),
        ([0.5, 0.7, 0.1, 0.4], (0.0, 1.0)),
    ],
)
def test_the_ends_against_a_slow_maximisation(
    values: list[float], bounds: tuple[float, float]
) -> None:
    # Owen's test, its weights found by SciPy's general optimiser: the mean is as far out as the
    # likelihood of weights on the values and both bounds allows.
    count = len(values)
    support = np.array([*values, *bounds])
    limit = student.ppf(0.975, count - 1) ** 2 / 2
    constraints = [
        {"type": "eq", "fun": lambda weights: weights.sum() - 1},
        {"type": "ineq", "fun": lambda w: limit + np.log(count * w[:count]).sum()},
    ]
    start = np.full(count + 2, 0.02 / 2)
    start[:count] = 0.98 / count
    ends = [
        sign
        * minimize(
            lambda weights, sign=sign: sign * weights @ support,
            start,
            bounds=[(1e-9, 1)] * count + [(0, 1)] * 2,
            constraints=constraints,
            options={"maxiter": 500, "ftol": 1e-12},
        ).fun
        for sign in (1, -1)
    ]
    assert compute_paired_interval(values, bounds) == pytest.approx(tuple(ends), abs=2e-4)


def test_equal_differences_leave_open_what_so_few_cannot_show() -> None:
    # Weight 1 − q on what was seen loses −n log(1 − q), which may be t² / 2.
    for count in (2, 10, 60):
        unseen = -np.expm1(-(student.ppf(0.975, count - 1) ** 2) / 2 / count)
        found = compute_paired_interval([0.0] * count, SHARE_CHANGE)
        assert found == pytest.approx((-unseen, unseen))
        low, high = compute_paired_interval([0.5] * count, SHARE_CHANGE)
        assert (low, high) == pytest.approx((0.5 - 1.5 * unseen, 0.5 + 0.5 * unseen))
    assert compute_paired_interval([0.0] * 10, SHARE_CHANGE)[1] == pytest.approx(0.226, abs=5e-4)
    assert compute_paired_interval([1.0] * 10, SHARE_CHANGE)[1] == 1.0
    assert compute_paired_interval([0.3] * 10, UNBOUNDED) == (0.3, 0.3)  # no bound, no reach


def test_one_value_says_nothing_of_others() -> None:
    assert compute_paired_interval([0.3], SHARE_CHANGE) == (-1, 1)
    assert compute_paired_interval([0.3], UNBOUNDED) == (0.3, 0.3)


def test_figures_in_the_unit_interval_have_bounds_and_others_none() -> None:
    assert interval([0.2] * 10, [0.2] * 10) == compute_paired_interval([0.0] * 10, SHARE_CHANGE)
    assert interval([2.0] * 10, [2.0] * 10) == (0, 0)
    changes = [new - old for old, new in zip(BEFORE, AFTER, strict=True)]
    assert interval(BEFORE, AFTER) == compute_paired_interval(changes, SHARE_CHANGE)
    tenfold = [[10 * value for value in values] for values in (BEFORE, AFTER)]
    low, high = compute_paired_interval(changes, UNBOUNDED)
    assert interval(*tenfold) == pytest.approx((10 * low, 10 * high))


@pytest.mark.parametrize("count", [1, 2, 10])
def test_the_scale_of_scores_makes_few_equal_changes_no_surer(count: int) -> None:
    low, high = interval([1.0] * count, [0.0] * count)
    assert interval([10.0] * count, [0.0] * count) == pytest.approx((10 * low, 10 * high))
    assert interval([1.0], [0.0])[1] > 0  # one prompt is no proof


@given(st.lists(FINITE, min_size=2, max_size=40))
def test_any_interval_surrounds_the_mean_within_the_bounds(values: list[float]) -> None:
    low, high = compute_paired_interval(values, SHARE_CHANGE)
    assert -1 <= low <= np.mean(values) + 1e-9
    assert np.mean(values) - 1e-9 <= high <= 1
    near, far = compute_paired_interval(values, (-2.0, 2.0))
    assert near <= low + 1e-6  # wider bounds, wider interval
    assert far >= high - 1e-6


def test_with_many_values_it_is_student_s() -> None:
    values = np.random.default_rng(0).normal(0.1, 0.2, 400).clip(-1, 1)
    error = student.ppf(0.975, 399) * values.std(ddof=1) / 20
    expected = (values.mean() - error, values.mean() + error)
    assert compute_paired_interval(values.tolist(), SHARE_CHANGE) == pytest.approx(
        expected, abs=0.03 * error
    )


@pytest.mark.parametrize(("before", "after"), [([], []), ([1.0], []), ([1.0, 2.0], [1.0])])
def test_unequal_or_empty_input_is_refused(before: list[float], after: list[float]) -> None:
    with pytest.raises(ValueError, match=f"got {len(before)} and {len(after)}"):
        interval(before, after)


@pytest.mark.parametrize("values", [[], [0.1, np.nan], [0.1, np.inf], [0.1, 1.1]])
def test_values_beyond_the_bounds_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"needs values|must be finite"):
        compute_paired_interval(values, SHARE_CHANGE)


Draw = Callable[[np.random.Generator, int], np.ndarray]
CASES: dict[str, tuple[Draw, float, tuple[float, float]]] = {
    "a few large gains": (
        lambda g, n: (g.random(n) < 0.15) * g.beta(2, 3, n),
        0.15 * 0.4,
        SHARE_CHANGE,
    ),
    "shares of five": (
        lambda g, n: (g.binomial(5, 0.1, n) - g.binomial(5, 0.4, n)) / 5,
        -0.3,
        SHARE_CHANGE,
    ),
    "nearly all fall": (lambda g, n: -(g.random(n) < 0.9).astype(float), -0.9, SHARE_CHANGE),
    "rare flags both ways": (
        lambda g, n: g.choice([1.0, -1.0, 0.0], n, p=[0.1, 0.05, 0.85]),
        0.05,
        SHARE_CHANGE,
    ),
    "skewed, without bounds": (
        lambda g, n: g.lognormal(-4, 0.8, n),
        float(np.exp(-4 + 0.32)),
        UNBOUNDED,
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("count", [10, 20, 48])
def test_the_interval_covers_the_truth_as_often_as_promised(name: str, count: int) -> None:
    draw, truth, bounds = CASES[name]
    generator, trials = np.random.default_rng(7), 600
    found = [
        compute_paired_interval(draw(generator, count).tolist(), bounds) for _ in range(trials)
    ]
    hits = sum(low <= truth <= high for low, high in found)
    # Of 95 % the standard error is 0.9 points; at 10 the percentile bootstrap covers 66 to 90 %.
    # Mostly zero without bounds is not among the cases: there it covers 87 % (RESULTS.md).
    assert hits / trials >= 0.93


def test_more_prompts_narrow_the_interval() -> None:
    def width(count: int) -> float:
        low, high = interval(BEFORE * count, AFTER * count)
        return high - low

    assert width(64) == pytest.approx(width(16) / 2, rel=0.1)


def test_a_ratio_s_interval_surrounds_it_and_keeps_pairs() -> None:
    low, high = compute_ratio_interval(AFTER, BEFORE)
    assert low < sum(AFTER) / sum(BEFORE) < high
    doubled = [2 * value for value in BEFORE]
    assert compute_ratio_interval(doubled, BEFORE) == pytest.approx((2.0, 2.0))


def test_of_equal_denominators_a_ratio_s_interval_is_that_of_the_mean() -> None:
    low, high = compute_paired_interval(AFTER, UNBOUNDED)
    assert compute_ratio_interval(AFTER, [4.0] * 8) == pytest.approx((low / 4, high / 4))


def test_ratios_of_unequal_denominators_are_covered() -> None:
    generator, hits, trials = np.random.default_rng(3), 0, 400
    for _ in range(trials):
        lengths = generator.integers(5, 100, 12).astype(float)
        costs = lengths * generator.lognormal(-3, 0.6, 12)
        low, high = compute_ratio_interval(costs.tolist(), lengths.tolist())
        hits += low <= np.exp(-3 + 0.18) <= high
    assert hits / trials >= 0.93


def test_units_without_a_denominator_count_for_nothing() -> None:
    assert compute_ratio_interval([0.5, 0.0], [1.0, 0.0]) == (0.5, 0.5)


@pytest.mark.parametrize("denominators", [[0.0, 0.0], [1.0, -1.0], [1.0], []])
def test_a_ratio_of_nothing_is_refused(denominators: list[float]) -> None:
    with pytest.raises(ValueError, match="need"):
        compute_ratio_interval([1.0, 1.0], denominators)


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
    assert (high - low) / 2 == pytest.approx(student.ppf(0.975, 24) * error)
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
