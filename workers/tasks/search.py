"""Stage 3: which neurons to prune and how many, measured on the tuning split within the budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from workers.attribution.contrastive import parse_relevance
from workers.correction.measurement import measure_responses
from workers.correction.results import PreparedCorrection, PromptOutcome, Trial
from workers.correction.screening import BLOCK, screen_components
from workers.correction.search import BUDGET_SHARE, DEFAULT_AMOUNTS, Measurement, search_amounts
from workers.domain import Granularity, Selection, TokenSequence
from workers.families import find_mlp_outputs
from workers.progress import Advance, Progress, count_up
from workers.pruning.components import pruned
from workers.pruning.ranking import Ranking, rank_components
from workers.pruning.scoring import Score, compute_scores
from workers.tasks.context import JobContext, StageOutput
from workers.tasks.loading import CorrectionInputs
from workers.validation.text_damage import ReferenceText

SCREENING_TOKENS = 256
"""Tokens of tuning text on which candidates are screened."""

SPARE_SHARE = 0.25
"""Candidates ranked beyond the largest amount, for those that the screening drops."""


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
        "budget": spec.budget.model_dump(mode="json"),
    }
    return context.run_stage(
        "search",
        key,
        lambda progress: _work(context, inputs, prepared, attributed.data, progress),
    )


def _amounts(inputs: CorrectionInputs) -> list[int]:
    return list(inputs.spec.search.amounts or DEFAULT_AMOUNTS)


def _work(
    context: JobContext,
    inputs: CorrectionInputs,
    prepared: PreparedCorrection,
    relevance_data: bytes,
    progress: Progress,
) -> bytes:
    tune = prepared.triggering(held_out=False)
    text = [TokenSequence(ids) for ids in prepared.reference.tune]
    amounts = _amounts(inputs)
    candidates = _rank(inputs, relevance_data, math.ceil(max(amounts) * (1 + SPARE_SHARE)))
    blocks = math.ceil(len(candidates) / BLOCK)
    corpus = [TokenSequence(ids) for ids in prepared.corpus_tune]
    texts = len(text) + len(corpus)
    total = blocks + texts + len(amounts) * (len(tune) + texts)
    advance = count_up(progress, total)
    screened = _screen(inputs, candidates, text, advance, blocks)
    _tell_screening(context, len(candidates), len(screened))
    outcome = search_amounts(
        screened,
        amounts,
        [outcome.metric for outcome in tune],
        _build_measure(inputs, tune, text, corpus, advance),
        inputs.budget.scaled(BUDGET_SHARE),
        on_trial=lambda trial: _tell_trial(context, trial),
    )
    progress(total, total)
    return outcome.to_bytes()


def _rank(inputs: CorrectionInputs, relevance_data: bytes, limit: int) -> Ranking:
    modules = list(find_mlp_outputs(inputs.checkpoint.model, inputs.family))
    relevance = parse_relevance(relevance_data, modules)
    score = Score(inputs.spec.attribution.score)
    scores = compute_scores(relevance.general, relevance.undesired, score)
    return rank_components(scores, Granularity.NEURON, limit)


def _screen(
    inputs: CorrectionInputs,
    candidates: Ranking,
    text: Sequence[TokenSequence],
    advance: Advance,
    blocks: int,
) -> Ranking:
    """Return the candidates without those of damage out of proportion; `blocks` units of work."""
    checkpoint = inputs.checkpoint
    sample = _take_tokens(text, SCREENING_TOKENS)
    reference = ReferenceText(checkpoint.model, inputs.family, sample, checkpoint.pad_id)
    measured = 0

    def measure_damage(selection: Selection) -> float:
        nonlocal measured
        measured += 1
        advance(1 if measured <= blocks else 0)
        with pruned(checkpoint.model, selection):
            return reference.measure(checkpoint.model).kl_mean

    return screen_components(candidates, measure_damage)


def _take_tokens(text: Sequence[TokenSequence], tokens: int) -> list[TokenSequence]:
    """Return the first samples that together hold at least `tokens` tokens, or all."""
    taken: list[TokenSequence] = []
    for sample in text:
        if sum(len(entry.token_ids) for entry in taken) >= tokens:
            break
        taken.append(sample)
    return taken


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
    checkpoint = inputs.checkpoint

    def build(samples: Sequence[TokenSequence]) -> ReferenceText:
        return ReferenceText(
            checkpoint.model, inputs.family, samples, checkpoint.pad_id, on_batch=advance
        )

    reference = build(text)
    named = build(corpus) if corpus else None

    def measure(selection: Selection) -> Measurement:
        responses = measure_responses(
            checkpoint.model,
            checkpoint.tokenizer,
            checkpoint.pad_id,
            selection,
            tune,
            inputs.behaviour.max_new_tokens,
            advance,
        )
        with pruned(checkpoint.model, selection):
            damage = reference.measure(checkpoint.model, advance)
            if named is None:
                return Measurement(responses, damage, reference.base_perplexity)
            perplexity = named.measure(checkpoint.model, advance).perplexity
        return Measurement(responses, replace(damage, perplexity=perplexity), named.base_perplexity)

    return measure


def _tell_screening(context: JobContext, candidates: int, kept: int) -> None:
    context.event(
        "search.screened",
        f"{candidates} candidates screened, {candidates - kept} dropped for damage out of "
        "proportion.",
        {"candidates": candidates, "kept": kept},
    )


def _tell_trial(context: JobContext, trial: Trial) -> None:
    increase = trial.perplexity / trial.base_perplexity - 1
    context.event(
        "search.trial",
        f"{trial.amount} neurons: tuning metric {trial.mean_metric:.3f}, "
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
