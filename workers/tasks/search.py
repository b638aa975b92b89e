"""Stage 3: how many neurons to prune, measured on the tuning split within the budget."""

from __future__ import annotations

from workers.attribution.attributors import parse_relevance
from workers.correction.measurement import measure_responses
from workers.correction.results import PreparedCorrection, Trial
from workers.correction.search import BUDGET_SHARE, DEFAULT_AMOUNTS, Measurement, search_amounts
from workers.domain import Component, TokenSequence
from workers.families import find_mlp_outputs
from workers.pruning.components import pruned
from workers.pruning.ranking import rank_components
from workers.pruning.scoring import Score, compute_scores
from workers.tasks.context import JobContext, Progress, StageOutput
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
    checkpoint, family = inputs.checkpoint, inputs.family
    tune = prepared.triggering(held_out=False)
    text = [TokenSequence(ids) for ids in prepared.reference.tune]
    amounts = _amounts(inputs)
    ranked = _rank(inputs, relevance_data, max(amounts))
    done = 0
    total = len(text) + len(amounts) * (len(tune) + len(text))

    def advance(units: int) -> None:
        nonlocal done
        done += units
        progress(done, total)

    reference = ReferenceText(checkpoint.model, family, text, checkpoint.pad_id, on_batch=advance)

    def measure(components: tuple[Component, ...]) -> Measurement:
        responses = measure_responses(
            checkpoint.model,
            checkpoint.tokenizer,
            checkpoint.pad_id,
            components,
            tune,
            inputs.behaviour.max_new_tokens,
            advance,
        )
        with pruned(checkpoint.model, components):
            damage = reference.measure(checkpoint.model, advance)
        metrics = tuple(response.metric for response in responses)
        return Measurement(metrics, damage, reference.base_perplexity)

    outcome = search_amounts(
        ranked,
        amounts,
        [outcome.metric for outcome in tune],
        measure,
        inputs.budget.scaled(BUDGET_SHARE),
        on_trial=lambda trial: _tell(context, trial),
    )
    progress(total, total)
    return outcome.to_bytes()


def _rank(inputs: CorrectionInputs, relevance_data: bytes, limit: int) -> tuple[Component, ...]:
    modules = list(find_mlp_outputs(inputs.checkpoint.model, inputs.family))
    relevance = parse_relevance(relevance_data, modules)
    score = Score(inputs.spec.attribution.score)
    return rank_components(compute_scores(relevance.general, relevance.undesired, score), limit)


def _tell(context: JobContext, trial: Trial) -> None:
    increase = trial.perplexity / trial.base_perplexity - 1
    context.event(
        "search.trial",
        f"{len(trial.components)} neurons: tuning metric {trial.mean_metric:.3f}, "
        f"perplexity {increase:+.2%}, KL {trial.kl_mean:.4f}"
        + ("" if trial.within_budget else " (over budget)"),
        {
            "components": len(trial.components),
            "tune_metric": trial.mean_metric,
            "perplexity_increase": increase,
            "kl": trial.kl_mean,
            "within_budget": trial.within_budget,
        },
    )
