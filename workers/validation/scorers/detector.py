"""A behaviour as scorers see it: how much of it a response has, and whether that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workers.validation.scorers.scorer import BehaviourScorer, Direction


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

    def is_found(self, token_ids: Sequence[int], scores: Sequence[float]) -> bool:
        """Whether enough scorers say that a response with these tokens shows the behaviour.

        A response without tokens shows nothing, though its uniqueness is 0 by definition.
        """
        votes = sum(self.shows(score, index) for index, score in enumerate(scores))
        return bool(token_ids) and votes >= self.agreeing
