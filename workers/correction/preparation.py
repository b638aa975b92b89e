"""Preparation: the base model's responses to each prompt, the splits, and whether to go on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch

from excise.names import Granularity
from workers.correction.behaviour import Behaviour, Marking, respond
from workers.correction.explained import choose_explained
from workers.correction.gates import MIN_HELD_OUT
from workers.correction.measurement import collect_base_undesired, mark_shown
from workers.correction.results import PreparedBehaviour, PromptOutcome, ReferenceSplit, Response
from workers.domain import Selection
from workers.families import find_context_length
from workers.measuring.splits import group_near_duplicates, split_by_hash
from workers.models.encoding import cut_windows
from workers.models.loaded import LoadedModel
from workers.models.tokenizer import Tokenizer
from workers.progress import GENERATED, Counter, Part, answer_prompts, count_alike
from workers.pruning.components import pruned

TUNE_SHARE = 0.5
"""Share of the undesired prompts used for attribution and search; the rest is held out. A ranking
from more prompts generalises better, so it was raised from 40 % (docs/decisions/0007)."""

ATTRIBUTED_TEXTS, SEARCHED_TEXTS = 0.5, 0.25
"""Shares of the reference texts for attribution and for the search; the rest is held out. Chosen by
hand; not measured."""

REFERENCE_TOKENS = 128
"""Longest reference sequence, in tokens; longer texts are cut into several. Chosen by hand; not
measured."""

TUNING_CORPUS_TOKENS = 1536
"""Tokens of the perplexity corpus that the search measures on; the reported figures use others.
Chosen by hand; not measured."""

MIN_TRIGGERING = 4
"""Fewest prompts in each split that must show the behaviour for a job to go on. Chosen by hand; not
measured."""

UNEVEN = 1.5
"""If the larger split is at least this many times the smaller, the user is told why. Chosen by
hand."""

DISTURBED_SHARE = 0.001
"""Share of the MLP neurons removed, at random, while greedy prompts are screened
(docs/decisions/0008). Chosen by hand; not measured."""

SCREENING_SEED = 1
"""Added to twice the job's seed for the draws by which prompts are chosen. Measurements add 0, so
they are drawn anew."""

EXPLORING_DRAWS = 3
"""Extra draws of each triggering tuning prompt, as multiples of the behaviour's samples, to learn
undesired tokens from. Further draws show further tokens and cost far less than further prompts.
Measured together with learning from any evaluator instead of all of them: after 16,000 weights
the share of toxic responses is 0.062 instead of 0.107 (docs/decisions/0008)."""

EXPECTED_SHARE = 0.4
"""Share of the prompts that are expected to bring the behaviour out, until this is known. It lies
between the 0.70 of the demo and the 0.14 of 800 prompts for toxicity."""

SHOWN_SHARE = 0.5
"""Share of the responses to these prompts that are expected to show it. Chosen by hand; not
measured."""

MARKED = 2.0
"""Cost of scoring every beginning of a response ÷ cost of drawing it: scoring took 780 s for about
500 responses, drawing 3,560 s for 5,490 (800 prompts for toxicity, benchmarks/RESULTS.md)."""


class PromptTooLongError(ValueError):
    """A prompt and its response do not fit into the model's context; shorten the prompt."""


def prepare_behaviour(
    base: LoadedModel,
    behaviour: Behaviour,
    prompts: Sequence[str],
    prompt_ids: Sequence[Sequence[int]],
    seed: int,
    counter: Counter,
) -> PreparedBehaviour:
    """Return each prompt with its split, whether it triggers, and the base model's responses.

    One run chooses the prompts and another measures them. If a prompt were chosen because of the
    responses it is measured by, any change at all would seem to improve it (regression to the
    mean, Galton 1886). For the second run sampled responses are drawn anew. A greedy response is
    always the same, so greedy prompts are chosen by a model that lacks a few random neurons.

    If single tokens make responses undesired, extra samples are drawn for the tuning prompts that
    trigger the behaviour.

    `counter` must expect `PreparationWork.list_parts` next. Raises `PromptTooLongError`, which
    names the first prompt that does not fit.
    """
    check_lengths(prompts, prompt_ids, behaviour.decoding.max_new_tokens, base.model)
    is_tune = split_by_hash(prompts, TUNE_SHARE)
    work = PreparationWork(behaviour, tuple(map(len, prompt_ids)))

    def run(chosen: Sequence[int], seed: int, draws: int = 1) -> dict[int, tuple[Response, ...]]:
        decoding = replace(behaviour.decoding, samples=draws * behaviour.decoding.samples)
        responses = respond(
            base,
            replace(behaviour, decoding=decoding),
            [prompts[index] for index in chosen],
            [prompt_ids[index] for index in chosen],
            seed=seed,
            advance=counter,
        )
        return dict(zip(chosen, responses, strict=True))

    everything = range(len(prompts))
    with _disturb(base, behaviour, seed):
        screened = run(everything, 2 * seed + SCREENING_SEED)
    chosen = [index for index in everything if any(map(behaviour.is_undesired, screened[index]))]
    learning = [index for index in chosen if is_tune[index]] if _learns_tokens(behaviour) else []
    counter.expect(work.answer_anew(chosen))
    counter.expect(work.draw_more(learning))
    measured = run(chosen, 2 * seed)
    # negative, because screening and measuring take seeds from 0
    explored = run(learning, -1 - seed, EXPLORING_DRAWS) if learning else {}
    outcomes = tuple(
        PromptOutcome(
            prompt=prompts[index],
            prompt_ids=tuple(prompt_ids[index]),
            held_out=not is_tune[index],
            screened=screened[index],
            triggering=index in measured,
            responses=measured.get(index, ()),
            explored=explored.get(index, ()),
        )
        for index in everything
    )
    counter.expect(work.mark(sum(_count_shown(behaviour, outcome) for outcome in outcomes)))
    marked = tuple(_mark_tuning(base, behaviour, outcome, counter) for outcome in outcomes)
    own = [outcome for outcome in marked if outcome.triggering and not outcome.held_out]
    counter.expect(work.weigh(sum(len(outcome.drawn) for outcome in own)))
    explained = choose_explained(base, behaviour, marked, counter)
    counter.expect(work.weigh(0))  # not all of them were read: empty responses are not
    return PreparedBehaviour(name=behaviour.name, prompts=marked, explained=explained)


@dataclass(frozen=True)
class PreparationWork:
    """The work of preparing a behaviour, for progress: an expectation that is corrected later."""

    behaviour: Behaviour
    lengths: tuple[int, ...]
    """Tokens of each prompt."""

    def list_parts(self) -> list[Part]:
        """Return all parts, as expected before any prompt is answered."""
        share = round(EXPECTED_SHARE * len(self.lengths))
        learning = round(TUNE_SHARE * share) if _learns_tokens(self.behaviour) else 0
        drawn = learning * self.behaviour.decoding.samples * (2 + EXPLORING_DRAWS)
        return [
            self._answer("first answers", self.lengths),
            self.answer_anew(range(share)),
            self.draw_more(range(learning)),
            self.mark(round(SHOWN_SHARE * drawn)),
            self.weigh(drawn),
        ]

    def answer_anew(self, chosen: Sequence[int]) -> Part:
        """Return the part for the second responses to the prompts with these indices."""
        return self._answer("second answers", [self.lengths[index] for index in chosen])

    def draw_more(self, chosen: Sequence[int]) -> Part:
        """Return the part for further responses to the prompts with these indices."""
        lengths = [self.lengths[index] for index in chosen for _ in range(EXPLORING_DRAWS)]
        return self._answer("more answers", lengths)

    def mark(self, responses: int) -> Part:
        """Return the part for scoring beginnings of responses; empty unless marking needs it."""
        count = responses if self.behaviour.marking is Marking.RISING else 0
        return count_alike("undesired responses", count, MARKED * self._cost, self._name("tokens"))

    def weigh(self, responses: int) -> Part:
        """Return the part for reading responses to choose what is explained."""
        count = responses if self.behaviour.marking is Marking.RISING else 0
        length = fmean(self.lengths) + self.behaviour.decoding.max_new_tokens
        return count_alike("texts", count, length, self._name("examples"))

    @property
    def _cost(self) -> float:
        """Average cost of a response."""
        return fmean(self.lengths) + GENERATED * self.behaviour.decoding.max_new_tokens

    def _answer(self, what: str, lengths: Sequence[int]) -> Part:
        decoding = self.behaviour.decoding
        step = self._name(what)
        return answer_prompts(lengths, decoding.max_new_tokens, decoding.samples, step=step)

    def _name(self, what: str) -> str:
        return f"{what}, {self.behaviour.name}"


def _learns_tokens(behaviour: Behaviour) -> bool:
    """Whether extra draws help: responses are sampled, and single tokens make them undesired."""
    return behaviour.decoding.temperature > 0 and behaviour.marking is Marking.RISING


def _count_shown(behaviour: Behaviour, outcome: PromptOutcome) -> int:
    """Return how many responses `_mark_tuning` marks."""
    return 0 if outcome.held_out else sum(map(behaviour.is_shown, outcome.drawn))


def _mark_tuning(
    base: LoadedModel, behaviour: Behaviour, outcome: PromptOutcome, counter: Counter
) -> PromptOutcome:
    """Return the outcome with the tokens marked that attribution explains; tuning prompts only."""
    if outcome.held_out:
        return outcome
    drawn = (outcome.screened, outcome.responses, outcome.explored)
    marked = mark_shown(base, behaviour, [outcome] * len(drawn), drawn)
    if behaviour.marking is Marking.RISING:
        counter(_count_shown(behaviour, outcome))
    names = ("screened", "responses", "explored")
    return outcome.model_copy(update=dict(zip(names, marked, strict=True)))


def _disturb(base: LoadedModel, behaviour: Behaviour, seed: int) -> AbstractContextManager[None]:
    """Return a context in which the model lacks a few random neurons, if decoding is greedy."""
    if behaviour.decoding.temperature > 0:
        return nullcontext()
    generator = torch.Generator().manual_seed(seed)
    chosen = {
        module: _draw(size, generator)
        for module, size in base.count_components(Granularity.NEURON).items()
    }
    kept = {module: indices for module, indices in chosen.items() if len(indices)}
    return pruned(base.model, Selection(Granularity.NEURON, kept))


def _draw(size: int, generator: torch.Generator) -> torch.Tensor:
    return (torch.rand(size, generator=generator) < DISTURBED_SHARE).nonzero().squeeze(1)


@dataclass(frozen=True)
class ReferenceTokens:
    """Largest number of tokens of reference text for each use. Chosen by hand; not measured."""

    attribute: int = 8192
    tune: int = 1024
    held_out: int = 2048


def split_reference(
    tokenizer: Tokenizer, texts: Sequence[str], limits: ReferenceTokens
) -> ReferenceSplit:
    """Return reference sequences for attribution, for the search and for the held-out check.

    A hash puts each text, with its near-duplicates, into one part: half of the texts into
    attribution, a quarter into each of the others. A part's last sequence is cut to the tokens
    that its limit leaves. Sequences of a single token predict nothing and are left out.
    """
    is_attributed = split_by_hash(texts, ATTRIBUTED_TEXTS)
    is_seen = split_by_hash(texts, ATTRIBUTED_TEXTS + SEARCHED_TEXTS)
    parts: dict[str, list[tuple[int, ...]]] = {"attribute": [], "tune": [], "held_out": []}
    budgets = {
        "attribute": limits.attribute,
        "tune": limits.tune,
        "held_out": limits.held_out,
    }
    for text, attributed, seen in zip(texts, is_attributed, is_seen, strict=True):
        part = "attribute" if attributed else "tune" if seen else "held_out"
        for sequence in cut_windows(tokenizer, text, REFERENCE_TOKENS):
            kept = sequence[: budgets[part]]
            if len(kept) > 1:
                parts[part].append(kept)
                budgets[part] -= len(kept)
    return ReferenceSplit(**{name: tuple(sequences) for name, sequences in parts.items()})


def judge_signal(behaviour: Behaviour, prepared: PreparedBehaviour) -> str | None:
    """Return why the base model does not show the behaviour enough to correct it, or None."""
    counts = {
        side: len(prepared.triggering(held_out=held_out))
        for side, held_out in (("tuning", False), ("held-out", True))
    }
    if any(count < MIN_TRIGGERING for count in counts.values()):
        return (
            f"signal too weak: {sum(counts.values())} of {len(prepared.prompts)} prompts bring "
            f"out {prepared.name} ({counts['tuning']} tuning, {counts['held-out']} held-out; "
            f"{MIN_TRIGGERING} needed in each){_explain_likeness(prepared)}"
            f"{_explain_unanswered(behaviour, prepared)}"
        )
    if not collect_base_undesired(behaviour, prepared.triggering(held_out=False)):
        return (
            f"signal too weak: the model brings out {prepared.name} only while it lacks a few "
            "neurons; as it is, no response to a tuning prompt shows it"
        )
    return None


def describe_signal(prepared: PreparedBehaviour) -> str:
    """Return how many prompts bring the behaviour out, and whether they are enough to pass."""
    tuning = len(prepared.triggering(held_out=False))
    held_out = len(prepared.triggering(held_out=True))
    told = (
        f"{tuning + held_out} of {len(prepared.prompts)} prompts bring out {prepared.name}: "
        f"{tuning} tuning, {held_out} held-out.{_explain_sizes(tuning, held_out)}"
    )
    if held_out >= MIN_HELD_OUT:
        return told
    return (
        f"{told} A correction passes with {MIN_HELD_OUT} held-out ones or more, so this job "
        "cannot: cancel it, and submit it again with more prompts."
    )


def _explain_sizes(tuning: int, held_out: int) -> str:
    """Return a sentence on why the splits differ in size; empty if they hardly do."""
    if max(tuning, held_out) < UNEVEN * min(tuning, held_out):
        return ""
    return (
        " A hash halves the prompts, and those that resemble each other stay together, so the "
        "parts differ in size."
    )


def _explain_likeness(prepared: PreparedBehaviour) -> str:
    """Say that near-duplicates share a side; empty where enough prompts of either are left."""
    prompts = [outcome.prompt for outcome in prepared.prompts if outcome.triggering]
    groups = len(set(group_near_duplicates(prompts)))
    if len(prompts) < 2 * MIN_TRIGGERING or groups == len(prompts):
        return ""
    return (
        f"; near-duplicates stay on one side and count as one, which leaves {groups}. Give more "
        "varied prompts"
    )


def _explain_unanswered(behaviour: Behaviour, prepared: PreparedBehaviour) -> str:
    """Return a sentence on responses cut off while they reasoned; empty if there were none."""
    limit = behaviour.decoding.max_new_tokens
    responses = [response for outcome in prepared.prompts for response in outcome.screened]
    count = sum(
        0 < response.reasoning_tokens == len(response.token_ids) >= limit for response in responses
    )
    if not count:
        return ""
    return (
        f"; {count} of {len(responses)} responses were still reasoning after {limit} tokens. Raise "
        "decoding.max_new_tokens"
    )


def check_lengths(
    prompts: Sequence[str],
    prompt_ids: Sequence[Sequence[int]],
    max_new_tokens: int,
    model: Any,
) -> None:
    """Raise `PromptTooLongError` for a prompt without tokens or beyond the model's context."""
    context = find_context_length(model)
    for number, (prompt, ids) in enumerate(zip(prompts, prompt_ids, strict=True), start=1):
        if not ids:
            raise PromptTooLongError(f"prompt {number} has no tokens; remove it")
        if len(ids) + max_new_tokens > context:
            raise PromptTooLongError(
                f"prompt {number} ({prompt[:40]!r}…) has {len(ids)} tokens; with "
                f"{max_new_tokens} new ones that exceeds the model's context of {context}; "
                "shorten the prompt or lower max_new_tokens"
            )
