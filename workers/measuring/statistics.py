"""Intervals for effects measured on the same prompts before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import stdtrit

CONFIDENCE = 0.95
"""Of every interval here."""

Bounds = tuple[float, float]
"""What values cannot lie beyond; infinite where that is not known."""

SHARE_CHANGE: Bounds = (-1.0, 1.0)
"""Of differences between figures in [0, 1]: shares, ratios, scores of most scorers."""
UNBOUNDED: Bounds = (-math.inf, math.inf)

REACH = 1.0
"""Where bounds are not known, values may lie this many times their range beyond what was seen.

With 1 the interval of lognormal values covers 96 % at n = 10, 20 and 48
(`benchmarks/interval_coverage.py`); with 0.5 it covered 93 to 94 % of 400 samples.
"""

_TAIL = (1 + CONFIDENCE) / 2
_Z = NormalDist().inv_cdf(_TAIL)

_SMALLEST_SLACK, _LARGEST_SLACK = 1e-12, 10.0
"""In ranges of the values, the larger one times their count: all weights are as good as equal."""

_Values = NDArray[np.float64]


def compute_paired_interval(differences: Sequence[float], bounds: Bounds) -> tuple[float, float]:
    """Return the 95 % interval of the mean of paired differences that lie within `bounds`.

    The means of all distributions whose likelihood, beside that of the values as observed, is
    above the limit of a test: empirical likelihood (Owen 1988, Biometrika 75:237), with the
    limit from Student's t (Owen 2001, section 3.3), over the values seen *and the two bounds*
    (as Honda & Takemura 2010, COLT, do for bounded rewards). So it does not shrink to a point
    where all values are the same: ten zeros between −1 and 1 give ± 0.226, as one value in
    five that is never seen is no rare thing. It is wider than Student's t where few values are
    not zero or lean to one side, and like it where there are many. No random numbers are drawn.

    One value tells of no other: the interval is `bounds`. Where a bound is infinite, values are
    taken to reach `REACH` times their range beyond those seen, and of one value, or of equal
    ones, nothing can be said: that end is the value itself. Raises `ValueError` without values,
    and where one is not finite or lies beyond the bounds.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not len(values):
        raise ValueError("an interval needs values, got 0")
    if not np.isfinite(values).all() or values.min() < bounds[0] or values.max() > bounds[1]:
        raise ValueError(f"values must be finite and lie between {bounds[0]} and {bounds[1]}")
    reach = REACH * float(np.ptp(values))
    low = bounds[0] if math.isfinite(bounds[0]) else float(values.min()) - reach
    high = bounds[1] if math.isfinite(bounds[1]) else float(values.max()) + reach
    if len(values) == 1:
        return low, high
    limit = float(stdtrit(len(values) - 1, _TAIL)) ** 2 / 2
    return -_find_largest_mean(-values, -low, limit), _find_largest_mean(values, high, limit)


def compute_change_interval(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of mean(after − before) over prompts, each with its pair kept.

    As `compute_paired_interval` has it, within ± 1 where all figures lie in [0, 1], as shares,
    ratios and most scores do, and without bounds elsewhere. Raises `ValueError` on unequal or
    empty input.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"need equally many values, got {len(before)} and {len(after)}")
    is_unit = min(*before, *after) >= 0 and max(*before, *after) <= 1
    differences = [new - old for old, new in zip(before, after, strict=True)]
    return compute_paired_interval(differences, SHARE_CHANGE if is_unit else UNBOUNDED)


def _find_largest_mean(values: _Values, bound: float, limit: float) -> float:
    """Return the largest mean of weights on `values` and `bound` that are likely enough.

    The weights that lose the least likelihood for a mean are ∝ 1 / (distance to the bound +
    slack). Where even those without slack lose less than `limit`, the bound itself has weight.
    """
    distances = bound - values
    spread = float(np.ptp(values))
    if distances.max() == 0:
        return bound
    scaled = distances / (spread or distances.max())

    def weigh(slack: float) -> _Values:
        inverse = 1 / (scaled + slack)
        weights: _Values = inverse / inverse.sum()
        return weights

    def compute_excess(slack: float) -> float:
        return float(-np.log(len(values) * weigh(slack)).sum()) - limit

    smallest = 0.0 if scaled.min() > 0 else _SMALLEST_SLACK
    excess = compute_excess(smallest)
    if excess <= 0:
        share = -math.expm1(excess / len(values))
        return bound - (1 - share) * float(weigh(smallest) @ distances)
    slack = brentq(compute_excess, smallest, _LARGEST_SLACK * len(values), rtol=1e-10)
    return bound - float(weigh(slack) @ distances)


def compute_ratio_interval(
    numerators: Sequence[float], denominators: Sequence[float]
) -> tuple[float, float]:
    """Return the 95 % interval of Σ numerators / Σ denominators over units kept in pairs.

    That of the mean of what each unit adds to the ratio to first order, (numerator − ratio ·
    denominator) / mean denominator (the linearised ratio: Cochran 1977, section 2.11), which
    `compute_paired_interval` gives without bounds. Units are prompts or text samples; with one,
    or with the same ratio in all, it is a point. Raises `ValueError` on unequal or empty input,
    on a negative denominator, and where all are zero.
    """
    if len(numerators) != len(denominators) or not numerators:
        raise ValueError(f"need equally many values, got {len(numerators)}, {len(denominators)}")
    tops = np.asarray(numerators, dtype=np.float64)
    bottoms = np.asarray(denominators, dtype=np.float64)
    if bottoms.min() < 0 or bottoms.sum() == 0:
        raise ValueError("a ratio needs denominators that are not negative, and not all zero")
    ratio = float(tops.sum() / bottoms.sum())
    parts = (tops - ratio * bottoms) / bottoms.mean()
    low, high = compute_paired_interval(parts.tolist(), UNBOUNDED)
    return ratio + low, ratio + high


def compute_share_interval(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share of `count` independent draws, in [0, 1].

    Wilson 1927 (JASA 22:209), Eq. 3 of Brown, Cai & DasGupta 2001: open even at a share of 0 or
    1. Raises `ValueError` without draws, or on a share outside [0, 1].
    """
    if count < 1 or not 0 <= share <= 1:
        raise ValueError(f"need a share in [0, 1] of one draw or more, got {share} of {count}")
    scale = 1 + _Z**2 / count
    middle = (share + _Z**2 / (2 * count)) / scale
    reach = _Z / scale * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


def compute_paired_share_interval(
    before: Sequence[bool], after: Sequence[bool]
) -> tuple[float, float]:
    """Return the 95 % score interval of share(after) − share(before) on the same prompts.

    Tango 1998 (Statistics in Medicine 17:891), equations 2 to 4, solved by bisection. Unlike
    the bootstrap it does not shrink to a point where no prompt changed: with n of them it then
    reaches ±z² / (n + z²), so that what few prompts cannot show is seen. Raises `ValueError` on
    unequal or empty input.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"need equally many values, got {len(before)} and {len(after)}")
    gained = sum(new and not old for old, new in zip(before, after, strict=True))
    lost = sum(old and not new for old, new in zip(before, after, strict=True))
    count = len(before)
    difference = (gained - lost) / count

    def solve(target: float, left: float, right: float) -> float:
        for _ in range(60):
            middle = (left + right) / 2
            if _score_of_difference(gained, lost, count, middle) > target:
                left = middle
            else:
                right = middle
        return (left + right) / 2

    return solve(_Z, -1.0, difference), solve(-_Z, difference, 1.0)


def _score_of_difference(gained: int, lost: int, count: int, difference: float) -> float:
    """Return Tango's score statistic for a true difference; it falls as `difference` grows."""
    a = 2 * count
    b = (2 * count - gained + lost) * difference - gained - lost
    c = -lost * difference * (1 - difference)
    losing = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = count * (2 * losing + difference * (1 - difference))
    distance = gained - lost - count * difference
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def compute_jackknife_interval(
    estimate: float, without_one: Sequence[float]
) -> tuple[float, float]:
    """Return estimate ± t · SE with the jackknife's standard error, t with n − 1 degrees.

    `without_one` holds the figure computed anew without each prompt (Efron & Tibshirani 1993,
    Eq. 11.5). For figures of a whole set, such as its share of distinct n-grams, which a
    bootstrap would bias, as drawing a prompt twice is repetition. Raises `ValueError` with
    fewer than two values.
    """
    count = len(without_one)
    if count < 2:
        raise ValueError("a jackknife needs two prompts or more")
    mean = fmean(without_one)
    spread = math.fsum((value - mean) ** 2 for value in without_one)
    error = math.sqrt((count - 1) / count * spread)
    reach = float(stdtrit(count - 1, _TAIL)) * error
    return estimate - reach, estimate + reach
