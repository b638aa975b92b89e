"""Detection of a behaviour: from scores to whether a response shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from excise.names import Direction
from workers.scorers.scorer import BehaviourScorer


@dataclass(frozen=True)
class Detector:
    """One or more scorers of one behaviour, and the rule by which a response shows it."""

    scorers: tuple[BehaviourScorer, ...]
    threshold: float
    """A score that is at this value or worse shows the behaviour."""
    agreeing: int
    """Number of scorers that must agree for a response to count as undesired."""

    def shows(self, score: float, scorer: int) -> bool:
        """Return whether a score of scorer number `scorer` is at the threshold or worse."""
        if self.scorers[scorer].direction is Direction.HIGHER_IS_BETTER:
            return score <= self.threshold
        return score >= self.threshold

    def count_votes(self, scores: Sequence[float], *, is_empty: bool) -> int:
        """Return how many scorers find the behaviour in a response; in an empty one, all do."""
        if is_empty:
            return len(self.scorers)
        return sum(self.shows(score, index) for index, score in enumerate(scores))

    def is_found(self, scores: Sequence[float], *, is_empty: bool) -> bool:
        """Return whether enough scorers find the behaviour in a response.

        Empty responses always count as showing it, so that no model looks better by not answering.
        """
        return self.count_votes(scores, is_empty=is_empty) >= self.agreeing
