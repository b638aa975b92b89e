"""Intervals for effects measured on the same prompts before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95
"""Of every interval here."""

_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


def compute_paired_bootstrap_interval(
    before: Sequence[float], after: Sequence[float], seed: int
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of mean(after − before) over prompts.

    Prompts are resampled with their pair kept (Efron & Tibshirani 1993, ch. 13). With one
    prompt, or none that differs, the interval is a point. Raises `ValueError` on unequal or
    empty input.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"need equally many values, got {len(before)} and {len(after)}")
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, len(differences), size=(RESAMPLES, len(differences)))
    means = differences[drawn].mean(axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def compute_ratio_interval(
    numerators: Sequence[float], denominators: Sequence[float], seed: int
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of Σ numerators / Σ denominators.

    Units (prompts, text samples) are resampled with their pair kept (Efron & Tibshirani 1993,
    ch. 13). Draws whose denominators add up to zero have no ratio and are left out; they are
    rare unless most denominators are zero. Raises `ValueError` on unequal or empty input, on a
    negative denominator, and where all are zero.
    """
    if len(numerators) != len(denominators) or not numerators:
        raise ValueError(f"need equally many values, got {len(numerators)}, {len(denominators)}")
    tops = np.asarray(numerators, dtype=np.float64)
    bottoms = np.asarray(denominators, dtype=np.float64)
    if bottoms.min() < 0 or bottoms.sum() == 0:
        raise ValueError("a ratio needs denominators that are not negative, and not all zero")
    drawn = np.random.default_rng(seed).integers(0, len(tops), size=(RESAMPLES, len(tops)))
    sums = bottoms[drawn].sum(axis=1)
    ratios = tops[drawn].sum(axis=1)[sums > 0] / sums[sums > 0]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(low), float(high)


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
    """Return estimate ± z · SE with the jackknife's standard error.

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
    return estimate - _Z * error, estimate + _Z * error
