"""The loss of a protected slice on its tuning items, and how much more other items may lose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import compress

import numpy as np
from scipy.special import stdtrit

from workers.abilities.encoding import EncodedProbe
from workers.abilities.state import SliceFigures
from workers.correction.results import SliceDamage
from workers.gates.abilities import compute_nats_rise, compute_soft_fall

CONFIDENCE = 0.95
"""One-sided confidence level that the mean loss on other items is below the bound."""


def compare_slice(
    probes: Sequence[EncodedProbe], before: SliceFigures, after: SliceFigures
) -> SliceDamage:
    """Return a slice's loss between two measurements of the same probes, with its margin."""
    rises = [new - old for old, new in zip(before.nats, after.nats, strict=True)]
    return SliceDamage(
        nats_rise=compute_nats_rise(before, after),
        accuracy_fall=compute_soft_fall(before, after),
        nats_margin=_compute_margin(_number_answers(probes), rises, before.tokens),
    )


def _number_answers(probes: Sequence[EncodedProbe]) -> list[int]:
    """Return, for each item that has tokens, the number of its probe's answer.

    Probes with the same answer, such as two questions for the same capital, have the same number,
    because together they say little more about other answers than one of them.
    """
    numbers: dict[tuple[int, ...], int] = {}
    found = []
    for probe in probes:
        answer = tuple(compress(probe.sample.response_ids, probe.sample.is_explained))
        number = numbers.setdefault(answer, len(numbers))
        found += [number] * sum(map(bool, probe.spans))
    return found


def _compute_margin(answers: Sequence[int], rises: Sequence[float], tokens: Sequence[int]) -> float:
    """Return the distance from the mean rise to its bound for other answers, nats per token.

    It is Student's t times the standard error of the ratio Σ rises / Σ tokens over different
    answers (the linearised ratio: Cochran 1977, section 2.11), and 0 for a single answer, which
    says nothing about others.
    """
    count = max(answers, default=0) + 1
    if count < 2:
        return 0.0
    tops = np.bincount(answers, weights=rises, minlength=count)
    bottoms = np.bincount(answers, weights=tokens, minlength=count)
    parts = (tops - tops.sum() / bottoms.sum() * bottoms) / bottoms.mean()
    error = float(parts.std(ddof=1)) / math.sqrt(count)
    return float(stdtrit(count - 1, CONFIDENCE)) * error
