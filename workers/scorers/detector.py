"""A behaviour as scorers see it: how much of it a response has, and whether that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from excise.names import Direction
from workers.scorers.scorer import BehaviourScorer


@dataclass(frozen=True)
class Detector:
    """One or more scorers of one behaviour, and what makes a response show it."""

    scorers: tuple[BehaviourScorer, ...]
    threshold: float
    """A score at or beyond this, on the bad side, shows the behaviour."""
    agreeing: int
    """Scorers that must agree before a response counts as undesired."""

    def shows(self, score: float, scorer: int) -> bool:
        """Whether one scorer's score is beyond the threshold."""
        if self.scorers[scorer].direction is Direction.HIGHER_IS_BETTER:
            return score <= self.threshold
        return score >= self.threshold

    def count_votes(self, scores: Sequence[float], *, is_empty: bool) -> int:
        """Return how many scorers see the behaviour in a response; in an empty one all do."""
        if is_empty:
            return len(self.scorers)
        return sum(self.shows(score, index) for index, score in enumerate(scores))

    def is_found(self, scores: Sequence[float], *, is_empty: bool) -> bool:
        """Whether enough scorers say that a response shows the behaviour; an empty one does.

        So no model can look better by falling silent.
        """
        return self.count_votes(scores, is_empty=is_empty) >= self.agreeing
