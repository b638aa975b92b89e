"""Behaviours: how responses to their prompts are generated, and which show them, how strongly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

from excise.names import Direction, Headline
from workers.correction.results import Closing, Response
from workers.domain import TokenSequence
from workers.measuring.reasoning import Reading, read_prefixes, read_response
from workers.measuring.responses import says_something
from workers.models.batches import NO_CONTRAST
from workers.models.encoding import find_answer_end
from workers.models.generation import Decoding, generate_samples
from workers.models.loaded import LoadedModel
from workers.models.tokenizer import Tokenizer
from workers.progress import Advance
from workers.scorers.detector import Detector
from workers.scorers.scorer import Answer, BehaviourScorer, LocatingScorer
from workers.scorers.uniqueness import compute_response_uniqueness, find_repeated_tokens
from workers.words import Span, has_word

RISE = 0.1
"""A token is marked if it raises the mean score of the response so far, in [0, 1], by this much.
Chosen by hand; not measured."""


class Marking(StrEnum):
    """Which tokens of an undesired response are explained."""

    REPEATED = "repeated"
    """Tokens that repeat earlier text; everything before the first of them is ordinary text."""
    RISING = "rising"
    """Tokens at which the score of the response so far rises: an insult, not its whole sentence."""
    SAID = "said"
    """The first token of each phrase, where the model decides to say it. When later tokens were
    explained as well, models still said the phrase, with another word or comma
    (benchmarks/RESULTS.md). If the scorers locate no phrase, tokens at which the score rises."""


class Shown(NamedTuple):
    """A response that shows a behaviour, and the prompt it answers."""

    prompt: str
    prompt_ids: Sequence[int]
    response: Response


@dataclass(frozen=True)
class Behaviour(Detector):
    """One behaviour to correct, whatever its scorers are.

    Scorers judge what follows a response's reasoning. A response without an answer is called
    empty: it has no tokens, or no letter, number or symbol, or its reasoning never ends. Every
    figure counts an empty response as showing the behaviour, with the worst possible score
    (`find_score`), because a correction must not win by making the model fall silent; response
    uniqueness is 0 by definition then (arXiv 2506.13727, Eq. 11). But nothing is learnt from
    one: it does not make a prompt trigger, is not explained, and is no clean example
    (`is_undesired`, `is_clean`).
    """

    name: str
    kind: str
    decoding: Decoding
    headline: Headline
    min_effect: float
    """Smallest improvement of the headline figure on held-out prompts that passes."""
    marking: Marking
    max_remaining: float | None = None
    """Largest share of held-out responses that may still show it; None sets no limit."""
    is_graded: bool = True
    """Whether scores lie in [0, 1], so that their mean measures the behaviour. For other scores
    only the side of the threshold counts."""

    def score(
        self,
        prompts: Sequence[str],
        sequences: Sequence[Sequence[TokenSequence]],
        tokenizer: Tokenizer,
    ) -> tuple[tuple[Response, ...], ...]:
        """Return the responses to each prompt, with the scores of every scorer."""
        given = [
            (prompt, sequence)
            for prompt, samples in zip(prompts, sequences, strict=True)
            for sequence in samples
        ]
        found = [read_response(tokenizer, own.prompt_ids, own.response_ids) for _, own in given]
        answers = [
            Answer(prompt, reading.answer, reading.answer_ids)
            for (prompt, _), reading in zip(given, found, strict=True)
        ]
        scores = zip(*(scorer.score(answers) for scorer in self.scorers), strict=True)
        scored = iter(
            Response(
                text=reading.answer,
                token_ids=reading.token_ids,
                scores=values,
                reasoning_tokens=reading.reasoning_tokens,
                is_blank=not says_something(reading.answer),
                closing=self._find_closing(own.prompt_ids, reading, tokenizer),
            )
            for (_, own), reading, values in zip(given, found, scores, strict=True)
        )
        return tuple(tuple(next(scored) for _ in samples) for samples in sequences)

    def find_score(self, response: Response, scorer: int) -> float:
        """Return one scorer's score as figures count it; an empty response gets the worst score.

        The worst is the bad end of [0, 1], or the threshold if scores are not in [0, 1].
        """
        if not response.is_empty:
            return response.scores[scorer]
        if not self.is_graded:
            return self.threshold
        return float(self.scorers[scorer].direction is Direction.LOWER_IS_BETTER)

    def is_failing(self, response: Response) -> bool:
        """Whether figures count the response as undesired: it shows the behaviour, or is empty."""
        return self.is_found(response.scores, is_empty=response.is_empty)

    def is_undesired(self, response: Response) -> bool:
        """Whether the response shows the behaviour to enough scorers and can be learnt from.

        An empty response shows nothing, unless its tokens themselves are a loop.
        """
        return self._can_be_learnt_from(response) and self.is_failing(response)

    def is_shown(self, response: Response) -> bool:
        """Whether the response can be learnt from and shows the behaviour to some scorer."""
        return self._can_be_learnt_from(response) and self._count_votes(response) > 0

    def is_clean(self, response: Response) -> bool:
        """Whether the response is not empty and shows the behaviour to no scorer."""
        return not response.is_empty and self._count_votes(response) == 0

    def _count_votes(self, response: Response) -> int:
        """Return how many scorers find the behaviour in the response; all do in an empty one."""
        return self.count_votes(response.scores, is_empty=response.is_empty)

    def _can_be_learnt_from(self, response: Response) -> bool:
        """Whether particular tokens make the response undesired.

        Among empty responses, only loops of blanks or of endless reasoning have such tokens.
        """
        if not response.is_empty:
            return True
        is_loop = compute_response_uniqueness(response.token_ids) <= self.threshold
        return bool(response.token_ids) and self.marking is Marking.REPEATED and is_loop

    def mark(self, shown: Sequence[Shown], tokenizer: Tokenizer) -> list[Response]:
        """Return undesired responses with the tokens marked that attribution explains.

        Scorers judge the prefixes of all these responses at once: texts of the same length then
        share a batch, whichever response they belong to.
        """
        marks = {
            number: self._mark_alone(own, tokenizer)
            for number, own in enumerate(shown)
            if self.marking is not Marking.RISING
        }
        rising = [number for number in range(len(shown)) if not any(marks.get(number, ()))]
        if self.marking is not Marking.REPEATED:
            found = self._find_rises([shown[number] for number in rising], tokenizer)
            marks |= dict(zip(rising, found, strict=True))
        return [
            own.response.model_copy(
                update={
                    "marks": marks[number],
                    "contrast_ids": _contrast(own, tokenizer),
                }
            )
            for number, own in enumerate(shown)
        ]

    def _find_closing(
        self, prompt_ids: Sequence[int], reading: Reading, tokenizer: Tokenizer
    ) -> Closing | None:
        """Return the phrase with which the response ends; None if there is none, or if it may have
        been cut off there."""
        if self.marking is not Marking.SAID:
            return None
        if len(reading.token_ids) >= self.decoding.max_new_tokens:
            return None
        text = reading.answer
        last = [
            first
            for scorer in self.scorers
            for first, stop in _locate(scorer, text)
            if not has_word(text[stop:])
        ]
        if not last:
            return None
        prefixes = read_prefixes(tokenizer, prompt_ids, reading.token_ids)
        tokens = _find_tokens(prefixes, [min(last)]).index(True)
        return Closing(tokens=tokens, characters=min(last))

    def _mark_alone(self, shown: Shown, tokenizer: Tokenizer) -> tuple[bool, ...]:
        """Return which tokens are marked, as far as this is known without scoring prefixes."""
        if self.marking is Marking.REPEATED:
            return _mark_repeated(shown.prompt_ids, shown.response)
        return self._find_openings(shown.prompt_ids, shown.response.token_ids, tokenizer)

    def _find_openings(
        self, prompt_ids: Sequence[int], token_ids: tuple[int, ...], tokenizer: Tokenizer
    ) -> tuple[bool, ...]:
        """Return for each token whether the first character of a phrase is in it."""
        prefixes = read_prefixes(tokenizer, prompt_ids, token_ids)
        answer = prefixes[-1].answer
        firsts = [first for scorer in self.scorers for first, _ in _locate(scorer, answer)]
        return _find_tokens(prefixes, firsts)

    def _find_rises(self, shown: Sequence[Shown], tokenizer: Tokenizer) -> list[tuple[bool, ...]]:
        """Return for each token of each response whether the mean score rises at it by `RISE`.

        If no rise of a response is that large, its largest one counts; without any rise, no token
        is marked. The scores are those of the answer up to the token; tokens of the reasoning have
        none.
        """
        rows = [read_prefixes(tokenizer, own.prompt_ids, own.response.token_ids) for own in shown]
        answers = [
            Answer(own.prompt, prefix.answer, prefix.answer_ids)
            for own, prefixes in zip(shown, rows, strict=True)
            for prefix in prefixes
            if prefix.answer_ids
        ]
        levels = iter(self._level(answers))
        return [
            _find_steps([next(levels) if prefix.answer_ids else 0.0 for prefix in prefixes])
            for prefixes in rows
        ]

    def _level(self, answers: Sequence[Answer]) -> list[float]:
        """Return the mean score of each answer, turned so that larger is worse."""
        if not answers:
            return []
        scores = zip(*(scorer.score(answers) for scorer in self.scorers), strict=True)
        return [fmean(map(self._turn, range(len(self.scorers)), values)) for values in scores]

    def _turn(self, scorer: int, score: float) -> float:
        """Return the score, in [0, 1], turned so that larger is worse."""
        if not self.is_graded:
            return float(self.shows(score, scorer))
        if self.scorers[scorer].direction is Direction.HIGHER_IS_BETTER:
            return 1 - score
        return score

    def compute_undesiredness(self, responses: Sequence[Sequence[Response]]) -> float:
        """Return the behaviour strength, in [0, 1]: the quantity a search minimises.

        It is the mean of all scores, each turned so that larger is worse. A mean is smoother than
        a share of responses, which moves in jumps on few prompts. 0 without responses; an empty
        response has the worst score.
        """
        values = [
            self._turn(scorer, self.find_score(response, scorer))
            for samples in responses
            for response in samples
            for scorer in range(len(response.scores))
        ]
        return fmean(values) if values else 0.0


def _contrast(shown: Shown, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the end of the response in place of the token that opens its closing phrase.

    Without the phrase, the model would have ended the answer there, and so it should. When the best
    other token was the contrast instead, answers never ended (benchmarks/RESULTS.md).
    """
    closing = shown.response.closing
    end = None if closing is None else _find_end(shown.prompt_ids, tokenizer)
    if closing is None or end is None:
        return ()
    contrast_ids = [NO_CONTRAST] * len(shown.response.token_ids)
    contrast_ids[closing.tokens] = end
    return tuple(contrast_ids)


def _find_end(prompt_ids: Sequence[int], tokenizer: Tokenizer) -> int | None:
    """Return the token that ends a response to the prompt; None if the tokenizer has none.

    Templates that end answers with a token of their own also end questions with it, so a prompt
    without it is plain text.
    """
    end = find_answer_end(tokenizer)
    return end if end in prompt_ids else tokenizer.eos_token_id


def _find_steps(levels: Sequence[float]) -> tuple[bool, ...]:
    """Return which of the levels rise by `RISE`; if none does, those that rise most."""
    rises = [later - earlier for earlier, later in pairwise([0.0, *levels])]
    least = min(RISE, max(rises, default=0.0))
    return tuple(rise >= least and rise > 0 for rise in rises)


def _find_tokens(prefixes: Sequence[Reading], places: Sequence[int]) -> tuple[bool, ...]:
    """Return for each token of an answer whether a character at one of these places is in it."""
    edges = pairwise([0, *(len(prefix.answer) for prefix in prefixes)])
    return tuple(any(start <= place < end for place in places) for start, end in edges)


def _locate(scorer: BehaviourScorer, text: str) -> list[Span]:
    """Return where a scorer finds what it scores; nowhere if it cannot tell."""
    return scorer.locate(text) if isinstance(scorer, LocatingScorer) else []


def _mark_repeated(prompt_ids: Sequence[int], response: Response) -> tuple[bool, ...]:
    """Return for each token whether it repeats earlier text, in the answer or endless reasoning."""
    own = response.answer_ids or response.token_ids
    before = (False,) * (len(response.token_ids) - len(own))
    return before + find_repeated_tokens(prompt_ids, own, response.text)


def respond(
    base: LoadedModel,
    behaviour: Behaviour,
    prompts: Sequence[str],
    prompt_ids: Sequence[Sequence[int]],
    *,
    seed: int,
    advance: Advance,
) -> tuple[tuple[Response, ...], ...]:
    """Return the model's scored responses to each prompt, drawn by the behaviour's decoding.

    `advance` is called with the number of responses in each finished batch.
    """
    sequences = generate_samples(base, prompt_ids, behaviour.decoding, seed=seed, on_batch=advance)
    return behaviour.score(prompts, sequences, base.tokenizer)
