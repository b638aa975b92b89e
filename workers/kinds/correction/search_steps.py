"""The parts of a correction's search that run the model; what they find out is remembered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch

from workers.abilities.state import SliceFigures
from workers.attribution.contrastive import ContrastiveRelevance
from workers.correction.behaviour import Behaviour
from workers.correction.explained import Explained, collect_explained
from workers.correction.measurement import (
    collect_undesired,
    mark_shown,
    measure_responses,
)
from workers.correction.protection import restore
from workers.correction.results import (
    PreparedCorrection,
    PromptOutcome,
    Responses,
    SliceDamage,
    StageDocument,
    StoredSelection,
    Trial,
    TrialSettings,
)
from workers.correction.search import Benefit, Measurement, SearchSteps
from workers.domain import GeneralCost, Granularity, Selection, TokenSequence
from workers.families import find_layer_numbers
from workers.gates.abilities import compute_nats_rise, compute_soft_fall
from workers.kinds.correction.ablation import ablated
from workers.kinds.correction.attribute import answer_undesired
from workers.kinds.correction.search_pool import build_pool, rank_pool, weighs_together
from workers.measuring.probes import measure_probes
from workers.measuring.text_damage import ReferenceText, TextDamage
from workers.progress import ignore
from workers.pruning.joint_ranking import Pool
from workers.pruning.ranking import Ranking, rank_components
from workers.pruning.scoring import Score, combine_benefits, compute_floor, compute_scores
from workers.running.context import JobContext, compute_key
from workers.running.loading import CorrectionInputs


class _Findings(StageDocument):
    """What one selection did on the tuning split, as it is remembered."""

    responses: tuple[Responses, ...]
    perplexity: float
    kl_mean: float
    kl_p95: float
    tokens: int
    base_perplexity: float
    slices: dict[str, SliceDamage]


class TuningBench:
    """The tuning split of a job: what selections are measured on.

    Measurements are remembered in the job's events and the artifact store, so a job that is
    taken up again goes on with the selections it had not measured.
    """

    def __init__(
        self,
        context: JobContext,
        inputs: CorrectionInputs,
        prepared: PreparedCorrection,
        upstream: str,
    ) -> None:
        self._context = context
        self._inputs = inputs
        self._upstream = upstream
        self.explained = [
            collect_explained(behaviour, own, inputs.attributor)
            for behaviour, own in zip(inputs.behaviours, prepared.behaviours, strict=True)
        ]
        self._tune = [entry.triggering(held_out=False) for entry in prepared.behaviours]
        self.general = [TokenSequence(ids) for ids in prepared.reference.attribute]
        self._text = [TokenSequence(ids) for ids in prepared.reference.tune]
        self._corpus = [TokenSequence(ids) for ids in prepared.corpus_tune]
        self.protection = prepared.protection
        self._probes = {own.name: restore(own.tune) for own in prepared.protection}

    def measure(self, selection: Selection, settings: TrialSettings) -> Measurement:
        """Return what pruning `selection` does to responses and to text.

        As in the final measurement, KL is that of the reference text and perplexity that of the
        corpus, here of windows that are not reported; without any, that of the reference text.
        """
        stored = StoredSelection.from_selection(selection)
        key = compute_key(
            "trial",
            {
                "attribute": self._upstream,
                "selection": stored.model_dump(mode="json"),
                "ablation": settings.ablation,
            },
        )
        data = self._context.remember(
            "search.measured", key, lambda: self._measure(selection, settings).to_bytes()
        )
        return self._judge(_Findings.model_validate_json(data))

    def _measure(self, selection: Selection, settings: TrialSettings) -> _Findings:
        inputs = self._inputs
        # Of the base model: before it is pruned.
        reference, named, able = self._reference, self._named, self._able
        with ablated(inputs, selection, settings, self._text):
            responses = tuple(map(self._respond, inputs.behaviours, self._tune, self.explained))
            damage = reference.measure(inputs.checkpoint.model, self._poll)
            if named is not reference:
                perplexity = named.measure(inputs.checkpoint.model, self._poll).perplexity
                damage = replace(damage, perplexity=perplexity)
            slices = self._measure_slices(able)
        return _Findings(
            responses=responses,
            perplexity=damage.perplexity,
            kl_mean=damage.kl_mean,
            kl_p95=damage.kl_p95,
            tokens=damage.tokens,
            base_perplexity=named.base_perplexity,
            slices=slices,
        )

    def _measure_slices(self, able: Mapping[str, SliceFigures]) -> dict[str, SliceDamage]:
        """Return what each protected slice lost beside the base model's figures `able`."""
        found = measure_probes(self._inputs.base, self._probes, self._poll)
        return {
            name: SliceDamage(
                nats_rise=compute_nats_rise(able[name], own),
                accuracy_fall=compute_soft_fall(able[name], own),
            )
            for name, own in found.items()
        }

    def _respond(
        self, behaviour: Behaviour, tune: Sequence[PromptOutcome], explained: Explained
    ) -> Responses:
        """Return responses, marked where it is the marked tokens that will be explained."""
        base, seed = self._inputs.base, self._inputs.spec.seed
        responses = measure_responses(base, behaviour, tune, seed, self._poll)
        if explained.mass is not None:
            return responses
        return mark_shown(base, behaviour, tune, responses)

    def _judge(self, found: _Findings) -> Measurement:
        behaviours = list(zip(self._inputs.behaviours, self._tune, found.responses, strict=True))
        gains = []
        for behaviour, tune, responses in behaviours:
            before = behaviour.compute_undesiredness([outcome.responses for outcome in tune])
            after = behaviour.compute_undesiredness(responses)
            gains.append(1 - after / before if before > 0 else 0.0)
        return Measurement(
            responses=found.responses,
            gains=tuple(gains),
            damage=TextDamage(found.perplexity, found.kl_mean, found.kl_p95, found.tokens),
            base_perplexity=found.base_perplexity,
            slices=found.slices,
            undesired=tuple(
                collect_undesired(behaviour, tune, responses)
                for behaviour, tune, responses in behaviours
            ),
        )

    def _poll(self, units: int) -> None:  # noqa: ARG002 - a trial is the unit of progress
        self._context.check_cancelled()

    @cached_property
    def _reference(self) -> ReferenceText:
        return self._build_text(self._text)

    @cached_property
    def _named(self) -> ReferenceText:
        return self._build_text(self._corpus) if self._corpus else self._reference

    @cached_property
    def _able(self) -> dict[str, SliceFigures]:
        return measure_probes(self._inputs.base, self._probes, self._poll)

    def _build_text(self, samples: Sequence[TokenSequence]) -> ReferenceText:
        inputs = self._inputs
        return ReferenceText(
            inputs.checkpoint.model, inputs.family, samples, inputs.checkpoint.pad_id
        )


def build_steps(
    context: JobContext,
    inputs: CorrectionInputs,
    relevance: Mapping[Granularity, ContrastiveRelevance],
    bench: TuningBench,
    most: Mapping[Granularity, int],
    on_step: Callable[[], None],
    on_limited: Callable[[TrialSettings, Ranking], None] = lambda *_: None,
) -> SearchSteps:
    """Return what a search needs of this job.

    `most` is the largest number of components that will be asked for, by granularity. `on_step`
    is called after every trial, and when components are ready to be weighed together.
    `on_limited` gets each ranking that `serving.max_rank` is about to shorten.
    """
    score = Score(inputs.spec.attribution.score)
    floors = {
        granularity: compute_floor(contrast.general, score)
        for granularity, contrast in relevance.items()
    }
    pools: dict[Granularity, Pool] = {}

    def rank(benefits: Sequence[Benefit], settings: TrialSettings) -> Ranking:
        kind = settings.granularity
        allowed = _list_allowed(inputs, settings)
        combined = combine_benefits([_take(benefit, allowed) for benefit in benefits])
        general, floor = relevance[kind].general, floors[kind]
        scores = compute_scores(general, combined, score, settings.cost_weight, floor)
        if not isinstance(general, GeneralCost) or not weighs_together(inputs, kind):
            return _rank_within(inputs, scores, settings, on_limited)
        if kind not in pools:
            pools[kind] = build_pool(
                context, inputs, scores, general, bench.general, bench.protection, kind, most[kind]
            )
            on_step()
        return rank_pool(inputs, pools[kind], combined, floor, settings, on_limited)

    def explain(
        granularity: Granularity, number: int, undesired: Sequence[TokenSequence]
    ) -> tuple[Benefit, float]:
        own = bench.explained[number]
        found = answer_undesired(
            inputs,
            granularity,
            number,
            undesired if own.mass is None else [sample.explain_all() for sample in undesired],
            own.mass,
            ignore,
        )
        # Of tokens that come up anywhere, a few new responses say little beside all the base's.
        weight = 1.0 if own.mass is None else len(undesired) / len(own.undesired)
        return relevance[granularity].behaviours[number].compute_benefit(found), weight

    def tell(trial: Trial) -> None:
        _tell_trial(context, inputs, trial)
        on_step()

    return SearchSteps(rank=rank, measure=bench.measure, explain=explain, tell=tell)


def _list_allowed(inputs: CorrectionInputs, settings: TrialSettings) -> list[str]:
    """Return the modules of the layers a trial may take components from."""
    numbers = find_layer_numbers(inputs.component_counts(settings.granularity), inputs.family)
    last = max(numbers.values()) if settings.last_layer is None else settings.last_layer
    return [name for name, layer in numbers.items() if settings.first_layer <= layer <= last]


def _take(benefit: Benefit, modules: Sequence[str]) -> dict[str, torch.Tensor]:
    return {name: benefit[name] for name in modules}


def _rank_within(
    inputs: CorrectionInputs,
    scores: Mapping[str, torch.Tensor],
    settings: TrialSettings,
    on_limited: Callable[[TrialSettings, Ranking], None],
) -> Ranking:
    """Return the ranking, with no more components of a module than an adapter's rank holds."""
    most = inputs.spec.serving.max_rank
    if most is None or settings.granularity is not Granularity.NEURON:
        return rank_components(scores, settings.granularity, settings.amount)
    everything = sum(values.numel() for values in scores.values())
    ranking = rank_components(scores, settings.granularity, everything)
    on_limited(settings, ranking)
    return ranking.cap(most)


def _describe_use(trial: Trial) -> str:
    """Return which limit is used most, and how much of what the search allows itself of it."""
    used = f"{trial.bound_by} at {trial.use:.0%} of what the search allows"
    return used if trial.within_budget else f"over budget: {used}"


def _tell_trial(context: JobContext, inputs: CorrectionInputs, trial: Trial) -> None:
    gains = {
        behaviour.name: gain for behaviour, gain in zip(inputs.behaviours, trial.gains, strict=True)
    }
    told = ", ".join(f"{name} {-gain:+.0%}" for name, gain in gains.items())
    context.event(
        "search.trial",
        f"{trial.settings.origin}, {trial.amount} {trial.settings.granularity.value}s: {told}, "
        f"perplexity {trial.perplexity_increase:+.2%}, KL {trial.kl_mean:.4f}"
        f", {_describe_use(trial)}",
        {
            **trial.settings.model_dump(mode="json"),
            "components": trial.amount,
            "gains": gains,
            "perplexity_increase": trial.perplexity_increase,
            "kl": trial.kl_mean,
            "bound_by": trial.bound_by,
            "use": trial.use,
            "within_budget": trial.within_budget,
        },
        once=True,  # a trial that is remembered was told when it was measured
    )
