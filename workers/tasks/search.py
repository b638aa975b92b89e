"""Stage 3: which components to prune and how many, measured on tuning data within the budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from workers.attribution.contrastive import parse_relevance
from workers.attribution.sums import finish
from workers.correction.measurement import collect_undesired, measure_responses
from workers.correction.results import PreparedCorrection, PromptOutcome, Trial
from workers.correction.search import (
    BUDGET_SHARE,
    DEFAULT_AMOUNTS,
    DEFAULT_ROUNDS,
    Measurement,
    SearchSteps,
    search_rounds,
)
from workers.domain import Relevance, Selection, TokenSequence
from workers.families import count_components
from workers.progress import Advance, Progress, count_up, ignore
from workers.pruning.components import pruned
from workers.pruning.ranking import Ranking, rank_components
from workers.pruning.scoring import Score, compute_floor, compute_scores
from workers.tasks.attribute import answer_undesired
from workers.tasks.context import JobContext, StageOutput
from workers.tasks.loading import CorrectionInputs
from workers.validation.text_damage import ReferenceText


def run(
    context: JobContext,
    inputs: CorrectionInputs,
    prepared: PreparedCorrection,
    attributed: StageOutput,
) -> StageOutput:
    """Return the stage's result, a `SearchOutcome`."""
    spec = inputs.spec
    key = {
        "attribute": attributed.sha256,
        "score": spec.attribution.score,
        "amounts": _amounts(inputs),
        "rounds": _rounds(inputs),
        "budget": spec.budget.model_dump(mode="json"),
    }
    return context.run_stage(
        "search",
        key,
        lambda progress: _work(context, inputs, prepared, attributed.data, progress),
    )


def _amounts(inputs: CorrectionInputs) -> list[int]:
    return list(inputs.spec.search.amounts or DEFAULT_AMOUNTS[inputs.granularity])


def _rounds(inputs: CorrectionInputs) -> int:
    return inputs.spec.search.rounds or DEFAULT_ROUNDS


def _work(
    context: JobContext,
    inputs: CorrectionInputs,
    prepared: PreparedCorrection,
    relevance_data: bytes,
    progress: Progress,
) -> bytes:
    tune = prepared.triggering(held_out=False)
    text = [TokenSequence(ids) for ids in prepared.reference.tune]
    corpus = [TokenSequence(ids) for ids in prepared.corpus_tune]
    modules = list(count_components(inputs.checkpoint.model, inputs.family, inputs.granularity))
    relevance = parse_relevance(relevance_data, modules)
    texts, rounds = len(text) + len(corpus), _rounds(inputs)
    total = texts + rounds * (2 * len(tune) + texts)
    advance = count_up(progress, total)
    outcome = search_rounds(
        relevance.undesired.mean,
        _amounts(inputs),
        rounds,
        [outcome.metric for outcome in tune],
        SearchSteps(
            rank=_build_rank(inputs, relevance.general),
            measure=_build_measure(inputs, tune, text, corpus, advance),
            explain=_build_explain(inputs, len(tune), advance),
            tell=lambda trial: _tell_trial(context, trial),
        ),
        inputs.budget.scaled(BUDGET_SHARE),
    )
    progress(total, total)
    return outcome.to_bytes()


def _build_rank(
    inputs: CorrectionInputs, general: Relevance
) -> Callable[[Mapping[str, torch.Tensor]], Ranking]:
    score, largest = Score(inputs.spec.attribution.score), max(_amounts(inputs))

    floor = compute_floor(general, score)

    def rank(benefit: Mapping[str, torch.Tensor]) -> Ranking:
        scores = compute_scores(general, benefit, score, floor)
        return rank_components(scores, inputs.granularity, largest)

    return rank


def _build_explain(
    inputs: CorrectionInputs, units: int, advance: Advance
) -> Callable[[Sequence[TokenSequence]], Mapping[str, torch.Tensor]]:
    """Return what explains a round's responses, `units` of work however many there are."""

    def explain(undesired: Sequence[TokenSequence]) -> Mapping[str, torch.Tensor]:
        mean = finish(answer_undesired(inputs, undesired, ignore), in_place=True).mean
        advance(units)
        return mean

    return explain


def _build_measure(
    inputs: CorrectionInputs,
    tune: Sequence[PromptOutcome],
    text: Sequence[TokenSequence],
    corpus: Sequence[TokenSequence],
    advance: Advance,
) -> Callable[[Selection], Measurement]:
    """Return what measures one selection: responses to the tuning prompts, damage to text.

    As in the final measurement, KL is that of the reference text and perplexity that of the
    corpus, here of windows that are not reported; without any, that of the reference text.
    """
    checkpoint, behaviour = inputs.checkpoint, inputs.behaviour

    def build(samples: Sequence[TokenSequence]) -> ReferenceText:
        return ReferenceText(
            checkpoint.model, inputs.family, samples, checkpoint.pad_id, on_batch=advance
        )

    reference = build(text)
    named = build(corpus) if corpus else reference

    def measure(selection: Selection) -> Measurement:
        responses = measure_responses(
            checkpoint.model,
            checkpoint.tokenizer,
            checkpoint.pad_id,
            selection,
            tune,
            behaviour.max_new_tokens,
            advance,
        )
        with pruned(checkpoint.model, selection):
            damage = reference.measure(checkpoint.model, advance)
            if named is not reference:
                perplexity = named.measure(checkpoint.model, advance).perplexity
                damage = replace(damage, perplexity=perplexity)
        undesired = collect_undesired(tune, responses, behaviour.threshold)
        return Measurement(responses, damage, named.base_perplexity, undesired)

    return measure


def _tell_trial(context: JobContext, trial: Trial) -> None:
    increase = trial.perplexity / trial.base_perplexity - 1
    context.event(
        "search.trial",
        f"{trial.amount} components: tuning metric {trial.mean_metric:.3f}, "
        f"perplexity {increase:+.2%}, KL {trial.kl_mean:.4f}"
        + ("" if trial.within_budget else " (over budget)"),
        {
            "components": trial.amount,
            "tune_metric": trial.mean_metric,
            "perplexity_increase": increase,
            "kl": trial.kl_mean,
            "within_budget": trial.within_budget,
        },
    )
