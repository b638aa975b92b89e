"""A behaviour: what brings it out, what tells that it is there, and how much of it there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from statistics import fmean

from excise.names import Direction, Headline
from workers.correction.results import Response
from workers.domain import TokenSequence
from workers.measuring.reasoning import read_prefixes, read_response
from workers.measuring.responses import says_something
from workers.models.generation import Decoding, generate_samples
from workers.models.loaded import LoadedModel
from workers.models.tokenizer import Tokenizer
from workers.scorers.detector import Detector
from workers.scorers.scorer import Answer
from workers.scorers.uniqueness import compute_response_uniqueness, find_repeated_tokens

RISE = 0.1
"""A token that raises the mean score of the response so far by this much is marked."""


class Marking(StrEnum):
    """Which tokens of an undesired response are explained."""

    REPEATED = "repeated"
    """Those that repeat: what comes before the first of them is ordinary text."""
    RISING = "rising"
    """Those with which the scores of the response so far rise: an insult, not its sentence."""


@dataclass(frozen=True)
class Behaviour(Detector):
    """One behaviour to correct, whatever its scorers are.

    Scorers judge what follows a response's reasoning. A response without an answer (no tokens, no
    letter, number or symbol, or reasoning that never ends) is empty, and one rule holds for it:
    every figure counts it as showing the behaviour, with the worst score there is (`find_score`),
    for a correction must not win by making the model fall silent; response uniqueness is 0 then
    by its definition (arXiv 2506.13727, Eq. 11). Nothing is learnt from it, though: it brings no
    prompt into a job, is not explained and is no clean example (`is_undesired`, `is_clean`).
    """

    name: str
    kind: str
    decoding: Decoding
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
        self,
        prompts: Sequence[str],
        sequences: Sequence[Sequence[TokenSequence]],
        tokenizer: Tokenizer,
    ) -> tuple[tuple[Response, ...], ...]:
        """Return the responses of each prompt with every scorer's score of them."""
        rows = [
            (prompt, read_response(tokenizer, sequence.prompt_ids, sequence.response_ids))
            for prompt, samples in zip(prompts, sequences, strict=True)
            for sequence in samples
        ]
        answers = [Answer(prompt, found.answer, found.answer_ids) for prompt, found in rows]
        scores = zip(*(scorer.score(answers) for scorer in self.scorers), strict=True)
        scored = iter(
            Response(
                text=found.answer,
                token_ids=found.token_ids,
                scores=values,
                reasoning_tokens=found.reasoning_tokens,
                is_blank=not says_something(found.answer),
            )
            for (_, found), values in zip(rows, scores, strict=True)
        )
        return tuple(tuple(next(scored) for _ in samples) for samples in sequences)

    def find_score(self, response: Response, scorer: int) -> float:
        """Return one scorer's score as figures count it: of an empty response the worst.

        That is the bad end of [0, 1], or the threshold where scores lie elsewhere.
        """
        if not response.is_empty:
            return response.scores[scorer]
        if not self.is_graded:
            return self.threshold
        return float(self.scorers[scorer].direction is Direction.LOWER_IS_BETTER)

    def is_failing(self, response: Response) -> bool:
        """Whether figures count a response as undesired: it shows the behaviour, or is empty."""
        return self.is_found(response.scores, is_empty=response.is_empty)

    def is_undesired(self, response: Response) -> bool:
        """Whether enough scorers say that a response shows the behaviour, so that one can learn
        from it: an empty response shows nothing, unless its very tokens loop.
        """
        return self._can_be_learnt_from(response) and self.is_failing(response)

    def is_shown(self, response: Response) -> bool:
        """Whether any scorer says of a response that one can learn from that it shows it."""
        return self._can_be_learnt_from(response) and self._count_votes(response) > 0

    def is_clean(self, response: Response) -> bool:
        """Whether no scorer says that a response, which is not empty, shows the behaviour."""
        return not response.is_empty and self._count_votes(response) == 0

    def _count_votes(self, response: Response) -> int:
        """Return how many scorers see the behaviour in a response; in an empty one all do."""
        return self.count_votes(response.scores, is_empty=response.is_empty)

    def _can_be_learnt_from(self, response: Response) -> bool:
        """Whether there are tokens that make the response undesired.

        Of empty responses only loops of blanks or of reasoning that never ends have them.
        """
        if not response.is_empty:
            return True
        is_loop = compute_response_uniqueness(response.token_ids) <= self.threshold
        return bool(response.token_ids) and self.marking is Marking.REPEATED and is_loop

    def mark(
        self, prompt: str, prompt_ids: Sequence[int], response: Response, tokenizer: Tokenizer
    ) -> Response:
        """Return an undesired response with the tokens marked that are to be explained."""
        if self.marking is Marking.REPEATED:
            marks = _mark_repeated(prompt_ids, response)
        else:
            marks = self._find_rises(prompt, prompt_ids, response.token_ids, tokenizer)
        return response.model_copy(update={"marks": marks})

    def _find_rises(
        self,
        prompt: str,
        prompt_ids: Sequence[int],
        token_ids: tuple[int, ...],
        tokenizer: Tokenizer,
    ) -> tuple[bool, ...]:
        """Return for each token whether the scores rise with it; the steepest one at least.

        They are of the answer so far; as long as a response reasons there is nothing to score.
        """
        prefixes = read_prefixes(tokenizer, prompt_ids, token_ids)
        begun = [prefix for prefix in prefixes if prefix.answer_ids]
        answers = [Answer(prompt, prefix.answer, prefix.answer_ids) for prefix in begun]
        scores = zip(*(scorer.score(answers) for scorer in self.scorers), strict=True)
        levels = [0.0] * (len(prefixes) - len(begun))
        levels += [fmean(map(self._turn, range(len(self.scorers)), values)) for values in scores]
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
        a share of responses, which on few prompts moves in jumps. 0 without responses; an empty
        one has the worst score.
        """
        values = [
            self._turn(scorer, self.find_score(response, scorer))
            for samples in responses
            for response in samples
            for scorer in range(len(response.scores))
        ]
        return fmean(values) if values else 0.0


def _mark_repeated(prompt_ids: Sequence[int], response: Response) -> tuple[bool, ...]:
    """Return for each token whether the answer, or reasoning that never ends, repeats with it."""
    own = response.answer_ids or response.token_ids
    before = (False,) * (len(response.token_ids) - len(own))
    return before + find_repeated_tokens(prompt_ids, own)


def respond(
    base: LoadedModel,
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
    sequences = generate_samples(base, prompt_ids, behaviour.decoding, seed=seed, on_batch=advance)
    return behaviour.score(prompts, sequences, base.tokenizer)
