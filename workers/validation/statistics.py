"""Intervals for effects measured on the same prompts before and after."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95


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
