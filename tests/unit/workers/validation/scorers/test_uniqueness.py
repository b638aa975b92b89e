"""Repetition as a scorer."""

from __future__ import annotations

from workers.validation.scorers.scorer import Answer, BehaviourScorer, Direction
from workers.validation.scorers.uniqueness import UniquenessScorer


def test_token_ids_count_not_the_text() -> None:
    scorer: BehaviourScorer = UniquenessScorer()
    answers = [
        Answer("p", "a b c d", (7, 7, 7, 7)),
        Answer("p", "a a", (1, 2)),
        Answer("p", "", ()),
    ]
    assert scorer.score(answers) == [0.25, 1.0, 0.0]
    assert scorer.direction is Direction.HIGHER_IS_BETTER
    assert scorer.score([]) == []
