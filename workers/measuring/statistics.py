"""Confidence intervals for effects measured on the same prompts before and after a change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import stdtrit

CONFIDENCE = 0.95
"""Confidence level of every interval in this file."""

Bounds = tuple[float, float]
"""Lowest and highest possible value; infinite where not known."""

SHARE_CHANGE: Bounds = (-1.0, 1.0)
"""Bounds of a difference between figures in [0, 1]: shares, ratios, scores of most scorers."""
UNBOUNDED: Bounds = (-math.inf, math.inf)

REACH = 1.0
"""Where a bound is not known, it is assumed to lie this many times the range of the values beyond
the most extreme one.

With 1, the interval for lognormal values had a coverage of 96 % at n = 10, 20 and 48
(`benchmarks/interval_coverage.py`); with 0.5, of 93 to 94 %, in 400 samples.
"""

_TAIL = (1 + CONFIDENCE) / 2
_Z = NormalDist().inv_cdf(_TAIL)

_SMALLEST_SLACK, _LARGEST_SLACK = 1e-12, 10.0
"""Bracket of the root search for the slack, in units of the values' range. The upper end is
multiplied by the number of values; there all weights are practically equal."""

_Values = NDArray[np.float64]


def compute_paired_interval(differences: Sequence[float], bounds: Bounds) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean of paired differences within `bounds`.

    The method is empirical likelihood (Owen 1988, Biometrika 75:237): the interval holds the
    means of all distributions whose likelihood relative to the observed one exceeds a test's
    limit, taken from Student's t (Owen 2001, section 3.3). Distributions may put weight on the
    observed values *and on the two bounds* (as in Honda & Takemura 2010, COLT, for bounded
    rewards). The interval therefore does not shrink to a point if all values are equal: ten
    zeros with bounds −1 and 1 give ± 0.226, because ten draws can easily miss a value that
    occurs once in five. It is wider than Student's t if few values are non-zero or if they are
    skewed, and close to it if there are many. No random numbers are drawn.

    A single value says nothing about others, so its interval is `bounds`. An infinite bound is
    replaced by one `REACH` times the values' range beyond the most extreme value; if the values
    are equal or there is only one, that end of the interval is the value itself. Raises
    `ValueError` if there are no values, or if one is not finite or lies outside the bounds.
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
    """Return the 95 % interval of mean(after − before), paired by prompt.

    Computed by `compute_paired_interval`, with bounds ± 1 if all figures lie in [0, 1] (as shares,
    ratios and most scores do) and without bounds otherwise. If then all differences are equal, as
    a single one is, the bounds are the range of the figures, so that a score of 0 or 10 shows no
    more than one of 0 or 1. Raises `ValueError` if the lengths differ or are 0.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"need equally many values, got {len(before)} and {len(after)}")
    lowest, highest = min(*before, *after), max(*before, *after)
    differences = [new - old for old, new in zip(before, after, strict=True)]
    if lowest >= 0 and highest <= 1:
        return compute_paired_interval(differences, SHARE_CHANGE)
    if min(differences) == max(differences):
        return compute_paired_interval(differences, (lowest - highest, highest - lowest))
    return compute_paired_interval(differences, UNBOUNDED)


def _find_largest_mean(values: _Values, bound: float, limit: float) -> float:
    """Return the largest mean of any weights on `values` and `bound` that are likely enough.

    Weights are likely enough if they lose at most `limit` of log-likelihood against equal
    weights. For a given mean, the loss is least for weights ∝ 1 / (distance to the bound +
    slack). If these lose less than `limit` even without slack, the bound itself gets weight.
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
    """Return the 95 % interval of Σ numerators / Σ denominators, paired by unit.

    Units are prompts or text samples. To first order a unit changes the ratio by (numerator −
    ratio · denominator) / mean denominator (the linearised ratio: Cochran 1977, section 2.11);
    the interval is that of the mean of these, from `compute_paired_interval` without bounds. It
    is a point if there is one unit or all have the same ratio. Raises `ValueError` if the
    lengths differ or are 0, for a negative denominator, and if all denominators are zero.
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

    Wilson 1927 (JASA 22:209), Eq. 3 of Brown, Cai & DasGupta 2001. It does not shrink to a point
    at a share of 0 or 1. Raises `ValueError` if there are no draws or the share is outside [0, 1].
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

    Tango 1998 (Statistics in Medicine 17:891), equations 2 to 4, solved by bisection. Unlike a
    bootstrap interval, it does not shrink to a point if none of the n prompts changed; it is
    then ±z² / (n + z²), which shows how little a few prompts can prove. Raises `ValueError` if
    the lengths differ or are 0.
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
    """Return Tango's score statistic for a true `difference`; it decreases with `difference`."""
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
    """Return estimate ± t · SE, with the jackknife's SE and t for n − 1 degrees of freedom.

    `without_one` holds the figure recomputed with each prompt left out in turn (Efron &
    Tibshirani 1993, Eq. 11.5). Meant for figures of a whole set, such as its share of distinct
    n-grams; a bootstrap would bias these, because drawing a prompt twice looks like repetition.
    Raises `ValueError` for fewer than two values.
    """
    count = len(without_one)
    if count < 2:
        raise ValueError("a jackknife needs two prompts or more")
    mean = fmean(without_one)
    spread = math.fsum((value - mean) ** 2 for value in without_one)
    error = math.sqrt((count - 1) / count * spread)
    reach = float(stdtrit(count - 1, _TAIL)) * error
    return estimate - reach, estimate + reach
