"""The bench of a search: ranking components and measuring trials on the tuning split."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch

from excise.names import GatedSet, Granularity
from workers.attribution.targets import TokenMass
from workers.correction.ablation import ablated
from workers.correction.answers import collect_answers, collect_continuations, measure_uses
from workers.correction.behaviour import Behaviour
from workers.correction.candidates import Candidates
from workers.correction.continuations import continue_texts, cut_beginnings
from workers.correction.explained import Explained, collect_explained
from workers.correction.gates import measure_attained
from workers.correction.measurement import collect_undesired, mark_shown, measure_responses
from workers.correction.results import (
    PromptOutcome,
    Response,
    Responses,
    SliceDamage,
    StageDocument,
    TrialSettings,
)
from workers.correction.search import Benefit, Measurement, Ranked, SearchInputs
from workers.correction.slice_bench import SliceBench
from workers.domain import Selection, TokenSequence
from workers.gates.gates import GateRequest
from workers.measuring.state import Responses as Answers
from workers.measuring.text_damage import ReferenceText, TextDamage
from workers.progress import Advance

Answer = Callable[
    [Granularity, int, Sequence[TokenSequence], TokenMass | None], Mapping[str, torch.Tensor]
]
"""Returns module → mean relevance of every component for undesired responses of the behaviour of
the given index; with a `TokenMass`, for the probability of its tokens."""


class Findings(StageDocument):
    """Observations of the model without a selection, on the tuning split, before judgement."""

    responses: tuple[Responses, ...]
    perplexity: float
    kl_mean: float
    kl_p95: float
    tokens: int
    base_perplexity: float
    slices: dict[str, SliceDamage]
    continued: tuple[Response, ...] = ()


class TuningBench:
    """The tuning split of a correction, and the model that is measured on it."""

    def __init__(
        self, inputs: SearchInputs, candidates: Candidates, answer: Answer, advance: Advance
    ) -> None:
        """`advance` is called after every batch and may raise to stop."""
        prepared = inputs.prepared
        self._base = inputs.base
        self._inputs = inputs
        self._candidates = candidates
        self._answer = answer
        self._advance = advance
        self._explained = [
            collect_explained(behaviour, own, inputs.attributor)
            for behaviour, own in zip(inputs.behaviours, prepared.behaviours, strict=True)
        ]
        self._tune = [entry.triggering(held_out=False) for entry in prepared.behaviours]
        self._text = [TokenSequence(ids) for ids in prepared.reference.tune]
        self._corpus = [TokenSequence(ids) for ids in prepared.corpus_tune]
        self._slices = SliceBench(inputs.base, prepared.protection, inputs.budget, advance)

    def rank(self, benefits: Sequence[Benefit], settings: TrialSettings) -> Ranked:
        """Return the components that the settings allow, ranked by all behaviours' benefits."""
        return self._candidates.rank(benefits, settings)

    def learn_slices(self, selection: Selection, names: Collection[str]) -> None:
        """Learn anew what these protected slices need; see `Candidates.learn_slices`."""
        self._candidates.learn_slices(selection, names)

    def measure(self, selection: Selection, settings: TrialSettings) -> Measurement:
        """Return the effect of pruning `selection` on responses, text and protected slices."""
        return self.judge(self.observe(selection, settings))

    def observe(self, selection: Selection, settings: TrialSettings) -> Findings:
        """Return observations of the model without `selection`, ablated as the settings say.

        As in the final measurement, KL is measured on the reference text and perplexity on the
        corpus (here on windows that are not reported) or, without a corpus, on the reference text.
        """
        behaviours = self._inputs.behaviours
        # The base model's figures come first, before it is pruned.
        reference, named, _ = self._reference, self._named, self._slices.before
        with ablated(self._base, selection, settings, self._text):
            responses = tuple(map(self._respond, behaviours, self._tune, self._explained))
            damage = reference.measure(self._base, self._advance)
            if named is not reference:
                perplexity = named.measure(self._base, self._advance).perplexity
                damage = replace(damage, perplexity=perplexity)
            slices = self._slices.read()
            continued = self._continue()
        return Findings(
            responses=responses,
            perplexity=damage.perplexity,
            kl_mean=damage.kl_mean,
            kl_p95=damage.kl_p95,
            tokens=damage.tokens,
            base_perplexity=named.base_perplexity,
            slices=self._slices.compare(slices),
            continued=continued,
        )

    def judge(self, found: Findings) -> Measurement:
        """Return the findings with each behaviour's gain and its remaining undesired responses."""
        behaviours = list(zip(self._inputs.behaviours, self._tune, found.responses, strict=True))
        return Measurement(
            responses=found.responses,
            gains=tuple(_compute_gain(*own) for own in behaviours),
            attained=tuple(
                measure_attained(behaviour, tuple(outcome.responses for outcome in tune), after)
                for behaviour, tune, after in behaviours
            ),
            damage=TextDamage(found.perplexity, found.kl_mean, found.kl_p95, found.tokens),
            base_perplexity=found.base_perplexity,
            slices=found.slices,
            answers=measure_uses(
                self._requests,
                self._answers,
                self._collect(found.responses, found.continued),
            ),
            undesired=tuple(collect_undesired(*own) for own in behaviours),
        )

    def explain(
        self, granularity: Granularity, behaviour: int, undesired: Sequence[TokenSequence]
    ) -> tuple[Benefit, float]:
        """Return the benefit against undesired responses, and its weight.

        For a behaviour explained by token mass, responses weigh by their number relative to the
        base model's; for others they weigh as much as the base model's, however few they are.
        """
        own = self._explained[behaviour]
        if own.mass is None:
            samples, weight = list(undesired), 1.0
        else:
            samples = [sample.explain_all() for sample in undesired]
            weight = len(undesired) / len(own.undesired)
        found = self._answer(granularity, behaviour, samples, own.mass)
        relevance = self._inputs.relevance[granularity].behaviours[behaviour]
        return relevance.compute_benefit(found), weight

    def _respond(
        self, behaviour: Behaviour, tune: Sequence[PromptOutcome], explained: Explained
    ) -> Responses:
        """Return the responses, marked unless the behaviour is explained by token mass."""
        responses = measure_responses(self._base, behaviour, tune, self._inputs.seed, self._advance)
        if explained.mass is not None:
            return responses
        return mark_shown(self._base, behaviour, tune, responses)

    def _continue(self) -> tuple[Response, ...]:
        """Return continuations of reference text, where the base's are known."""
        prepared = self._inputs.prepared
        if not prepared.continued:
            return ()
        beginnings = cut_beginnings(prepared.reference.tune)
        found = continue_texts(self._base, self._inputs.behaviours, beginnings, self._advance)
        return tuple(own.response for own in found)

    def _collect(
        self, responses: Sequence[Responses], continued: Sequence[Response]
    ) -> dict[str, Answers]:
        """Return what the gates on answers look at, by their subjects."""
        found = collect_answers(self._inputs.behaviours, responses)
        if continued:
            found[GatedSet.REFERENCE] = collect_continuations(continued)
        return found

    @cached_property
    def _answers(self) -> Mapping[str, Answers]:
        """The base model's answers to the tuning prompts, and its continuations."""
        responses = [tuple(outcome.responses for outcome in own) for own in self._tune]
        return self._collect(responses, self._inputs.prepared.continued)

    @cached_property
    def _requests(self) -> list[GateRequest]:
        """The gates whose answers are there."""
        return [own for own in self._inputs.requests if own.subject in self._answers]

    @cached_property
    def _reference(self) -> ReferenceText:
        return self._build_text(self._text)

    @cached_property
    def _named(self) -> ReferenceText:
        """The text whose perplexity is measured."""
        return self._build_text(self._corpus) if self._corpus else self._reference

    def _build_text(self, samples: Sequence[TokenSequence]) -> ReferenceText:
        return ReferenceText(self._base, samples, on_batch=self._advance)


def _compute_gain(
    behaviour: Behaviour, tune: Sequence[PromptOutcome], responses: Responses
) -> float:
    """Return the relative fall of undesiredness from the base model's; 0 if there was none."""
    before = behaviour.compute_undesiredness([outcome.responses for outcome in tune])
    after = behaviour.compute_undesiredness(responses)
    return 1 - after / before if before > 0 else 0.0
