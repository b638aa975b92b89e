"""Measuring model states: the base once, then each changed model against it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import TypeVar

import torch

from excise.estimates.prompts import BYTES_A_TOKEN
from workers.abilities.catalogue import ProbeSource
from workers.abilities.encoding import EncodedProbe
from workers.abilities.state import Abilities
from workers.domain import TokenSequence
from workers.measuring.encodings import (
    NO_MISMATCH,
    CorpusText,
    Mismatches,
    Windows,
    find_mismatches,
)
from workers.measuring.probes import measure_probes
from workers.measuring.reasoning import read_response
from workers.measuring.responses import find_empty
from workers.measuring.state import (
    BehaviourScores,
    ModelState,
    Responses,
    RightAnswers,
    TextDivergences,
    TextLosses,
    Unmeasured,
    require,
)
from workers.measuring.text_damage import ReferenceText, compute_perplexity
from workers.measuring.zero_shot import answer_questions
from workers.measuring.zero_shot_tasks import Question
from workers.models.encoding import encode_text
from workers.models.generation import Decoding, generate_samples
from workers.models.loaded import LoadedModel
from workers.models.memory import is_out_of_memory
from workers.models.prompts import Prompt, encode_prompts, get_text
from workers.progress import Advance, Part, answer_prompts, ignore, read_texts
from workers.scorers.detector import Detector
from workers.scorers.scorer import Answer, BehaviourScorer

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class PromptSet:
    """Prompts to answer, and how to decode the responses."""

    prompts: tuple[Prompt, ...]
    decoding: Decoding
    """Greedy where gates compare responses in pairs."""
    chat: bool = True
    """Whether texts go through the tokenizer's chat template, if it has one; chats always do."""
    seed: int = 0
    """Seed for decoding that samples."""

    @property
    def count(self) -> int:
        """Number of responses to generate."""
        return len(self.prompts) * self.decoding.samples


@dataclass(frozen=True)
class CheckPlan:
    """What to measure of every state; whatever is absent is not measured."""

    corpus: Windows | None = None
    """Windows of the perplexity corpus, as token ids of the base's tokenizer."""
    reference: Windows | None = None
    """Text on which the divergence from the base is measured, as token ids of its tokenizer."""
    corpus_text: CorpusText | None = None
    """What `corpus` was cut from, where other checkpoints may have other tokenizers."""
    reference_text: CorpusText | None = None
    """What `reference` was cut from, likewise."""
    prompt_sets: Mapping[str, PromptSet] = field(default_factory=dict)
    zero_shot: Mapping[str, tuple[Question, ...]] = field(default_factory=dict)
    behaviours: Mapping[str, Detector] = field(default_factory=dict)
    """Behaviour → its detector; its prompts are the prompt set of the same name."""
    abilities: Mapping[str, tuple[EncodedProbe, ...]] = field(default_factory=dict)
    """Slice → its probes, as token ids of the base's tokenizer."""
    probe_source: ProbeSource | None = None
    """The source that the probes were drawn from, if more may be drawn later."""

    def list_parts(self, step: str, *, is_base: bool) -> Iterator[Part]:
        """Yield what measuring one state takes, as progress counts it, in its order.

        The base reads its reference text first, any other state last.
        """
        reference = read_texts("texts", map(len, self.reference or ()), step=step)
        if is_base:
            yield reference
        for chosen in self.prompt_sets.values():
            lengths = [_guess_tokens(get_text(prompt)) for prompt in chosen.prompts]
            decoding = chosen.decoding
            yield answer_prompts(lengths, decoding.max_new_tokens, decoding.samples, step=step)
        yield read_texts("texts", map(len, self.corpus or ()), step=step)
        yield count_probes(self.abilities, step)
        for questions in self.zero_shot.values():
            yield count_choices(questions, step)
        if not is_base:
            yield reference


@dataclass(frozen=True, eq=False)
class KeptFigures:
    """Measurements of a base that stay valid for every later run on the same plan.

    Scores of behaviours are not among them, because scorers may be remote and may change.
    """

    state: ModelState
    """The base's state without behaviours."""
    hidden: tuple[torch.Tensor, ...]
    """The base's hidden states `(position, hidden)` on the reference, one tensor per batch; empty
    without a reference."""


class Baseline:
    """The base model's state, against which changed models or other checkpoints are measured."""

    def __init__(
        self,
        plan: CheckPlan,
        base: LoadedModel,
        advance: Advance = ignore,
        kept: KeptFigures | None = None,
    ) -> None:
        """Measure `base`; given figures `kept` from an earlier baseline, only score behaviours.

        Whatever cannot be measured becomes `Unmeasured` in the state; only what `advance`
        raises goes through. `advance` is called with units of `plan.list_parts` done.
        """
        attempts = _Attempts(advance)
        self._plan = plan
        self._tokenizer = base.tokenizer
        self._text: ReferenceText | Unmeasured | None = None
        if plan.reference is not None:
            known = None if kept is None else kept.hidden
            predict = partial(_predict_reference, plan, base, attempts.advance, known)
            self._text = attempts.make(predict)
        self.state = (
            _measure(plan, base, attempts)
            if kept is None
            else _add_behaviours(plan, kept.state, attempts)
        )
        """The base's state; it has no divergence, which would be from itself."""

    def keep(self) -> KeptFigures | None:
        """Return figures that save measuring the base again; None if any part is unmeasured."""
        state = self.state.model_copy(update={"behaviours": {}})
        parts = (state.perplexity, state.abilities, *state.responses.values())
        if any(isinstance(part, Unmeasured) for part in (*parts, *state.zero_shot.values())):
            return None
        if isinstance(self._text, Unmeasured):
            return None
        return KeptFigures(state, () if self._text is None else self._text.states)

    def measure(self, changed: LoadedModel, advance: Advance = ignore) -> ModelState:
        """Return the state of `changed`, measured by the same plan; failures as in `__init__`."""
        attempts = _Attempts(advance)
        mismatches = find_mismatches(self._plan, self._tokenizer, changed.tokenizer)
        state = _measure(self._plan, changed, attempts, mismatches)
        if self._plan.reference is None:
            return state
        divergence: TextDivergences | Unmeasured | None = mismatches.reference
        if divergence is None:
            divergence = attempts.make(partial(self._measure_divergence, changed, attempts.advance))
        return state.model_copy(update={"divergence": divergence})

    def _measure_divergence(self, changed: LoadedModel, advance: Advance) -> TextDivergences:
        text = self._text
        if not isinstance(text, ReferenceText):
            reason = "the base was not measured" if text is None else f"base: {text.reason}"
            raise ValueError(reason)
        _check_context(changed, _as_samples(self._plan.reference))
        damage = text.measure(changed, advance)
        return TextDivergences(
            divergences=_check_finite(damage.divergences),
            lengths=damage.lengths,
            p95=damage.kl_p95,
        )


class _Attempts:
    """Turns failures into `Unmeasured`, except out-of-memory errors and what a listener raises."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._stop: BaseException | None = None

    def advance(self, units: float) -> None:
        try:
            self._advance(units)
        except BaseException as error:
            self._stop = error
            raise

    def make(self, measure: Callable[[], _Result]) -> _Result | Unmeasured:
        try:
            return measure()
        except Exception as error:
            if error is self._stop or is_out_of_memory(error):
                raise
            logger.info("a check could not be measured", exc_info=True)
            lines = str(error).strip().splitlines()
            return Unmeasured(reason=f"{type(error).__name__}: {lines[0] if lines else '?'}")


def count_probes(slices: Mapping[str, Sequence[EncodedProbe]], step: str) -> Part:
    """Return the probes of some slices as progress counts them."""
    lengths = [len(probe.sample.token_ids) for own in slices.values() for probe in own]
    return read_texts("probes", lengths, step=step)


def _guess_tokens(text: str) -> int:
    return math.ceil(len(text.encode()) / BYTES_A_TOKEN)


def count_choices(questions: Sequence[Question], step: str = "") -> Part:
    """Return the choices of some questions as progress counts them, each after its context."""
    choices = [choice for question in questions for choice in question.choices]
    lengths = [_guess_tokens(choice.context + choice.continuation) for choice in choices]
    return read_texts("choices", lengths, step=step)


def _predict_reference(
    plan: CheckPlan,
    base: LoadedModel,
    advance: Advance,
    known: tuple[torch.Tensor, ...] | None,
) -> ReferenceText:
    samples = _as_samples(plan.reference)
    _check_context(base, samples)
    return ReferenceText(base, samples, on_batch=advance, known=known)


def _check_context(subject: LoadedModel, samples: Sequence[TokenSequence]) -> None:
    """Raise `ValueError` for text that is longer than the model's context."""
    longest = max((len(sample.token_ids) for sample in samples), default=0)
    limit = subject.context_length
    if longest > limit:
        raise ValueError(f"a sequence has {longest} tokens, the model's context {limit}; cut it")


def _measure(
    plan: CheckPlan, subject: LoadedModel, attempts: _Attempts, mismatches: Mismatches = NO_MISMATCH
) -> ModelState:
    """Return a model's state without its divergence."""
    responses = {
        name: attempts.make(partial(_respond, subject, chosen, attempts.advance))
        for name, chosen in plan.prompt_sets.items()
    }
    perplexity: TextLosses | Unmeasured | None = mismatches.corpus
    if plan.corpus is not None and perplexity is None:
        perplexity = attempts.make(partial(_fit, plan, subject, attempts.advance))
    abilities: Abilities | Unmeasured | None = mismatches.abilities
    if plan.abilities and abilities is None:
        abilities = attempts.make(partial(_probe, plan, subject, attempts.advance))
    state = ModelState(
        responses=responses,
        perplexity=perplexity,
        abilities=abilities,
        zero_shot={
            name: attempts.make(partial(_answer, subject, asked, attempts.advance))
            for name, asked in plan.zero_shot.items()
        },
    )
    return _add_behaviours(plan, state, attempts)


def _add_behaviours(plan: CheckPlan, state: ModelState, attempts: _Attempts) -> ModelState:
    """Return the state with its responses scored by the plan's detectors."""
    found = {
        name: attempts.make(partial(_find_behaviour, detector, state.responses, name))
        for name, detector in plan.behaviours.items()
    }
    return state.model_copy(update={"behaviours": found})


def _respond(subject: LoadedModel, chosen: PromptSet, advance: Advance) -> Responses:
    if not chosen.prompts:
        raise ValueError("there are no prompts; give some")
    encoded = encode_prompts(
        subject.tokenizer,
        chosen.prompts,
        chat=chosen.chat,
        longest=subject.context_length - chosen.decoding.max_new_tokens,
    )
    samples = generate_samples(
        subject, encoded, chosen.decoding, seed=chosen.seed, on_batch=advance
    )
    readings = [
        read_response(
            subject.tokenizer, sequence.prompt_ids, sequence.response_ids, skip_special_tokens=True
        )
        for drawn in samples
        for sequence in drawn
    ]
    reasoning = tuple(reading.reasoning_tokens for reading in readings)
    return Responses(
        prompts=tuple(
            get_text(prompt) for prompt in chosen.prompts for _ in range(chosen.decoding.samples)
        ),
        token_ids=tuple(reading.token_ids for reading in readings),
        texts=tuple(reading.answer for reading in readings),
        max_new_tokens=chosen.decoding.max_new_tokens,
        reasoning_tokens=reasoning if any(reasoning) else (),
        samples=chosen.decoding.samples,
    )


def _fit(plan: CheckPlan, subject: LoadedModel, advance: Advance) -> TextLosses:
    samples = _as_samples(plan.corpus)
    _check_context(subject, samples)
    found = compute_perplexity(subject, samples, on_batch=advance)
    return TextLosses(losses=_check_finite(found.losses), lengths=found.lengths)


def _probe(plan: CheckPlan, subject: LoadedModel, advance: Advance) -> Abilities:
    _check_context(subject, [probe.sample for own in plan.abilities.values() for probe in own])
    found = measure_probes(subject, plan.abilities, advance)
    for own in found.values():
        _check_finite(own.nats)
    return Abilities(slices=found)


def _answer(subject: LoadedModel, questions: Sequence[Question], advance: Advance) -> RightAnswers:
    if not questions:
        raise ValueError("there are no questions; give some")
    outcomes = answer_questions(
        subject, partial(encode_text, subject.tokenizer), questions, on_batch=advance
    )
    return RightAnswers(right=tuple(outcome.right for outcome in outcomes))


def _find_behaviour(
    detector: Detector, responses: Mapping[str, Responses | Unmeasured], name: str
) -> BehaviourScores:
    given = require(responses.get(name), "responses")
    parts = zip(given.prompts, given.texts, given.answer_ids, strict=True)
    answers = [Answer(prompt, text, ids) for prompt, text, ids in parts]
    columns = [_score(scorer, answers) for scorer in detector.scorers]
    rows = list(zip(*columns, strict=True))
    is_empty = find_empty(given.answer_ids, given.texts)
    found = [
        detector.is_found(scores, is_empty=empty)
        for scores, empty in zip(rows, is_empty, strict=True)
    ]
    prompts = [slice(start, start + given.samples) for start in range(0, len(rows), given.samples)]
    return BehaviourScores(
        scores=tuple(fmean(map(fmean, rows[own])) for own in prompts),
        shown=tuple(sum(found[own]) for own in prompts),
        samples=given.samples,
        direction=detector.scorers[0].direction.value,
        is_empty=tuple(any(is_empty[own]) for own in prompts),
    )


def _score(scorer: BehaviourScorer, answers: Sequence[Answer]) -> tuple[float, ...]:
    scores = scorer.score(answers)
    if len(scores) != len(answers):
        raise ValueError(f"{scorer.name} gave {len(scores)} scores for {len(answers)}")
    return _check_finite(scores)


def _as_samples(windows: Sequence[tuple[int, ...]] | None) -> list[TokenSequence]:
    return [TokenSequence(ids) for ids in windows or ()]


def _check_finite(values: Sequence[float]) -> tuple[float, ...]:
    if not all(map(math.isfinite, values)):
        raise ArithmeticError("a figure is not finite; use float32, or another model")
    return tuple(values)
