"""A behaviour: what brings it out, what tells that it is there, and how much of it there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from statistics import fmean
from typing import Any

from workers.correction.results import Response
from workers.domain import TokenSequence
from workers.validation.generation import Decoding, generate_samples
from workers.validation.scorers.scorer import Answer, BehaviourScorer, Direction
from workers.validation.subject import Subject
from workers.validation.uniqueness import find_repeated_tokens

RISE = 0.1
"""A token that raises the mean score of the response so far by this much is marked."""


class Marking(StrEnum):
    """Which tokens of an undesired response are explained."""

    REPEATED = "repeated"
    """Those that repeat: what comes before the first of them is ordinary text."""
    RISING = "rising"
    """Those with which the scores of the response so far rise: an insult, not its sentence."""


class Headline(StrEnum):
    """Which figure of a behaviour must improve for a correction to pass."""

    MEAN_SCORE = "mean_score"
    """The mean score, by its rise."""
    SHARE = "share"
    """The share of responses that show the behaviour, by its fall relative to the base's."""


@dataclass(frozen=True)
class Behaviour:
    """One behaviour to correct, whatever its scorers are."""

    name: str
    kind: str
    decoding: Decoding
    scorers: tuple[BehaviourScorer, ...]
    threshold: float
    """A score at or beyond this, on the bad side, shows the behaviour."""
    agreeing: int
    """Scorers that must agree before a response counts as undesired."""
    headline: Headline
    min_effect: float
    """Least improvement of the headline figure on held-out prompts."""
    marking: Marking
    max_remaining: float | None = None
    """Largest share of held-out responses that may still show it; None asks for no limit."""
    is_graded: bool = True
    """Whether scores lie in [0, 1], so that their mean says how much of the behaviour there is;
    of others only the side of the threshold counts."""

    def score(
        self, prompts: Sequence[str], sequences: Sequence[Sequence[TokenSequence]], tokenizer: Any
    ) -> tuple[tuple[Response, ...], ...]:
        """Return the responses of each prompt with every scorer's score of them."""
        answers = [
            Answer(prompt, tokenizer.decode(sequence.response_ids), sequence.response_ids)
            for prompt, samples in zip(prompts, sequences, strict=True)
            for sequence in samples
        ]
        scores = zip(*(scorer.score(answers) for scorer in self.scorers), strict=True)
        scored = iter(
            Response(text=answer.text, token_ids=answer.token_ids, scores=values)
            for answer, values in zip(answers, scores, strict=True)
        )
        return tuple(tuple(next(scored) for _ in samples) for samples in sequences)

    def shows(self, score: float, scorer: int) -> bool:
        """Whether one scorer's score is beyond the threshold."""
        if self.scorers[scorer].direction is Direction.HIGHER_IS_BETTER:
            return score <= self.threshold
        return score >= self.threshold

    def is_undesired(self, response: Response) -> bool:
        """Whether enough scorers say that a response shows the behaviour.

        A response without tokens shows nothing, though its uniqueness is 0 by definition.
        """
        votes = sum(self.shows(score, index) for index, score in enumerate(response.scores))
        return bool(response.token_ids) and votes >= self.agreeing

    def is_shown(self, response: Response) -> bool:
        """Whether any scorer says that a response, which is not empty, shows the behaviour."""
        return bool(response.token_ids) and any(
            self.shows(score, index) for index, score in enumerate(response.scores)
        )

    def is_clean(self, response: Response) -> bool:
        """Whether no scorer says that a response, which is not empty, shows the behaviour."""
        return bool(response.token_ids) and not self.is_shown(response)

    def mark(
        self, prompt: str, prompt_ids: Sequence[int], response: Response, tokenizer: Any
    ) -> Response:
        """Return an undesired response with the tokens marked that are to be explained."""
        if self.marking is Marking.REPEATED:
            marks = find_repeated_tokens(prompt_ids, response.token_ids)
        else:
            marks = self._find_rises(prompt, response.token_ids, tokenizer)
        return response.model_copy(update={"marks": marks})

    def _find_rises(
        self, prompt: str, token_ids: tuple[int, ...], tokenizer: Any
    ) -> tuple[bool, ...]:
        """Return for each token whether the scores rise with it; the steepest one at least."""
        prefixes = [token_ids[:end] for end in range(1, len(token_ids) + 1)]
        answers = [Answer(prompt, tokenizer.decode(ids), ids) for ids in prefixes]
        scores = zip(*(scorer.score(answers) for scorer in self.scorers), strict=True)
        levels = [fmean(map(self._turn, range(len(self.scorers)), values)) for values in scores]
        rises = [later - earlier for earlier, later in pairwise([0.0, *levels])]
        least = min(RISE, max(rises))
        return tuple(rise >= least for rise in rises)

    def _turn(self, scorer: int, score: float) -> float:
        """Return a score, turned so that larger is worse, in [0, 1]."""
        if not self.is_graded:
            return float(self.shows(score, scorer))
        if self.scorers[scorer].direction is Direction.HIGHER_IS_BETTER:
            return 1 - score
        return score

    def compute_undesiredness(self, responses: Sequence[Sequence[Response]]) -> float:
        """Return how much of the behaviour is in the responses, what a search makes small.

        The mean of all scores, those of which higher is better subtracted from 1: smoother than
        a share of responses, which on few prompts moves in jumps. 0 without responses.
        """
        values = [
            self._turn(scorer, score)
            for samples in responses
            for response in samples
            for scorer, score in enumerate(response.scores)
        ]
        return fmean(values) if values else 0.0


def respond(
    base: Subject,
    behaviour: Behaviour,
    prompts: Sequence[str],
    prompt_ids: Sequence[Sequence[int]],
    *,
    seed: int,
    advance: Callable[[int], None],
) -> tuple[tuple[Response, ...], ...]:
    """Return the model's scored responses to each prompt, as the behaviour's decoding draws them.

    `advance` is called with the number of responses of each batch.
    """
    sequences = generate_samples(
        base.model, prompt_ids, behaviour.decoding, base.pad_id, seed=seed, on_batch=advance
    )
    return behaviour.score(prompts, sequences, base.tokenizer)
