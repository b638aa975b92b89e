"""How far two scorers agree, and how well one tells responses of two kinds apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import cohen_kappa_score

from workers.measuring.statistics import CONFIDENCE


@dataclass(frozen=True)
class RocAuc:
    """Area under the ROC curve, in [0, 1], with its 95 % interval."""

    value: float
    low: float
    high: float


def compute_kappa(first: Sequence[bool], second: Sequence[bool]) -> float | None:
    """Return how far two scorers' verdicts on the same responses agree beyond chance, in [−1, 1].

    Cohen's kappa (Cohen 1960): (p_o − p_e) / (1 − p_e). None if it is undefined because both
    scorers give the same verdict on every response. Raises `ValueError` for unequal or empty input.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"need equally many verdicts, got {len(first)} and {len(second)}")
    if len({*first, *second}) == 1:
        return None
    return float(cohen_kappa_score(list(first), list(second)))


def compute_roc_auc(labels: Sequence[bool], scores: Sequence[float]) -> RocAuc:
    """Return the probability that a positive scores above a negative; ties count one half.

    The interval is DeLong's (DeLong, DeLong & Clarke-Pearson 1988; by mid-ranks, Sun & Xu 2014), on
    the logit scale, so that it stays inside (0, 1) if the area does. Raises `ValueError` for
    unequal input and for fewer than two positives or negatives.
    """
    positives = np.asarray([x for x, label in zip(scores, labels, strict=True) if label])
    negatives = np.asarray([x for x, label in zip(scores, labels, strict=True) if not label])
    if min(len(positives), len(negatives)) < 2:
        raise ValueError("need at least two positives and two negatives")
    ranks = rankdata(np.concatenate([positives, negatives]))
    # For each positive, the share of negatives that score lower; and vice versa.
    beats = (ranks[: len(positives)] - rankdata(positives)) / len(negatives)
    beaten = 1 - (ranks[len(positives) :] - rankdata(negatives)) / len(positives)
    area = float(beats.mean())
    variance = beats.var(ddof=1) / len(positives) + beaten.var(ddof=1) / len(negatives)
    if not 0 < area < 1:
        return RocAuc(area, area, area)
    logit = np.log(area / (1 - area))
    reach = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * np.sqrt(variance) / (area * (1 - area))
    low, high = 1 / (1 + np.exp(-(logit - reach))), 1 / (1 + np.exp(-(logit + reach)))
    return RocAuc(area, float(low), float(high))
