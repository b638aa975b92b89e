"""From measurements to gates, verdict and report. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from workers.correction.results import (
    PreparedCorrection,
    PromptOutcome,
    Response,
    SearchOutcome,
    ValidationOutcome,
)
from workers.correction.search import Budget
from workers.domain import (
    BehaviourEffect,
    Damage,
    DivergenceDamage,
    GateResult,
    Granularity,
    HeldOutEffect,
    ModelIdentity,
    PatchSummary,
    PerplexityDamage,
    RandomControl,
    Report,
    Sample,
    SearchStep,
    SplitEffect,
    Verdict,
)
from workers.pruning.selection import count_by_module, list_indices
from workers.validation.statistics import compute_paired_bootstrap_interval

MIN_HELD_OUT = 10
"""Fewest held-out prompts that trigger with which a correction can pass."""

SAMPLES_BEST, SAMPLES_WORST, SAMPLES_TUNE = 10, 6, 4


@dataclass(frozen=True)
class ReportFrame:
    """What a report says about the job itself, whatever was measured."""

    behaviour: str
    metric: str
    threshold: float
    corpus: str
    min_effect: float
    budget: Budget
    attribution: Mapping[str, str]
    seed: int
    versions: Mapping[str, str]
    model_id: str
    timings: Mapping[str, float]


def build_report(
    frame: ReportFrame,
    prepared: PreparedCorrection,
    search: SearchOutcome | None,
    validation: ValidationOutcome | None,
) -> Report:
    """Return the report of a correction that ended after any stage.

    Without a search the signal was too weak; without a validation nothing was within budget.
    """
    effect = _build_effect(frame, prepared, search, validation)
    damage = None if validation is None else _build_damage(frame, validation)
    gates = [] if validation is None else _build_gates(frame, validation, effect, damage)
    verdict, reason = _judge(prepared, search, validation, gates)
    return Report(
        verdict=verdict,
        reason=reason,
        behaviours=[effect],
        damage=damage,
        patch=_summarise_patch(prepared, search),
        search=_list_search(search),
        gates=gates,
        samples=_choose_samples(prepared, search, validation),
        attribution=dict(frame.attribution),
        timings=dict(frame.timings),
        seed=frame.seed,
        versions=dict(frame.versions),
        model=ModelIdentity(id=frame.model_id, sha256=prepared.model_sha256),
    )


def _judge(
    prepared: PreparedCorrection,
    search: SearchOutcome | None,
    validation: ValidationOutcome | None,
    gates: Sequence[GateResult],
) -> tuple[Verdict, str]:
    if prepared.too_weak is not None:
        return Verdict.NO_EFFECT, prepared.too_weak
    if search is None or validation is None:
        return (
            Verdict.NO_EFFECT,
            "no amount tried improves the behaviour on the tuning prompts within the budget",
        )
    failed = [gate.name for gate in gates if not gate.passed]
    if failed:
        return Verdict.REJECTED, f"gates not met: {', '.join(failed)}"
    return Verdict.PASSED, "every gate was measured on held-out data and met"


def _build_effect(
    frame: ReportFrame,
    prepared: PreparedCorrection,
    search: SearchOutcome | None,
    validation: ValidationOutcome | None,
) -> BehaviourEffect:
    tune = prepared.triggering(held_out=False)
    held_out = prepared.triggering(held_out=True)
    before_tune = [outcome.metric for outcome in tune]
    before = [outcome.metric for outcome in held_out]
    after_tune, after = before_tune, before
    if search is not None and search.chosen_trial is not None:
        after_tune = [response.metric for response in search.chosen_trial.responses]
    if validation is not None:
        after = [response.metric for response in validation.responses]
    return BehaviourEffect(
        name=frame.behaviour,
        metric=frame.metric,
        direction="higher_is_better",
        threshold=frame.threshold,
        prompts=len(prepared.prompts),
        triggering=len(tune) + len(held_out),
        tune=SplitEffect(n=len(tune), before=_mean(before_tune), after=_mean(after_tune)),
        held_out=None if validation is None else _effect_on_held_out(before, after, frame.seed),
        random_control=None if validation is None else _control(before, validation, frame.seed),
    )


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0


def _effect_on_held_out(before: list[float], after: list[float], seed: int) -> HeldOutEffect:
    low, high = compute_paired_bootstrap_interval(before, after, seed)
    return HeldOutEffect(
        n=len(before), before=fmean(before), after=fmean(after), ci_low=low, ci_high=high
    )


def _control(before: list[float], validation: ValidationOutcome, seed: int) -> RandomControl:
    after = _control_means(validation)
    low, high = compute_paired_bootstrap_interval(before, after, seed)
    return RandomControl(
        before=fmean(before),
        after=fmean(after),
        ci_low=low,
        ci_high=high,
        draws=len(validation.control_metrics),
    )


def _control_means(validation: ValidationOutcome) -> list[float]:
    """Return for each held-out prompt its metric averaged over the random draws."""
    return [fmean(draws) for draws in zip(*validation.control_metrics, strict=True)]


def _build_damage(frame: ReportFrame, validation: ValidationOutcome) -> Damage:
    return Damage(
        perplexity=PerplexityDamage(
            corpus=frame.corpus,
            context=validation.perplexity_context,
            tokens=validation.perplexity_tokens,
            before=validation.perplexity_before,
            after=validation.perplexity_after,
        ),
        kl=DivergenceDamage(
            mean=validation.kl_mean, p95=validation.kl_p95, tokens=validation.kl_tokens
        ),
    )


def _build_gates(
    frame: ReportFrame,
    validation: ValidationOutcome,
    effect: BehaviourEffect,
    damage: Damage | None,
) -> list[GateResult]:
    held_out = effect.held_out
    assert held_out is not None
    assert damage is not None
    after = [response.metric for response in validation.responses]
    over_control, _ = compute_paired_bootstrap_interval(
        _control_means(validation), after, frame.seed
    )
    increase = damage.perplexity.after / damage.perplexity.before - 1
    return [
        _at_least(
            "effect",
            held_out.after - held_out.before,
            frame.min_effect,
            "the mean metric on held-out prompts rises by at least this",
        ),
        _above(
            "significance",
            held_out.ci_low,
            0.0,
            "the 95 % interval of the held-out rise lies above zero",
        ),
        _above(
            "better_than_random",
            over_control,
            0.0,
            "the 95 % interval of the lead over an equally large random selection lies above zero",
        ),
        _at_least(
            "held_out_prompts",
            float(held_out.n),
            float(MIN_HELD_OUT),
            "at least this many held-out prompts show the behaviour",
        ),
        _at_most(
            "perplexity",
            increase,
            frame.budget.perplexity_increase,
            f"the perplexity of {damage.perplexity.corpus} grows by at most this share",
        ),
        _at_most(
            "kl",
            damage.kl.mean,
            frame.budget.kl_mean,
            "the mean KL divergence from the base on held-out reference text is at most this",
        ),
    ]


def _at_least(name: str, value: float, limit: float, sentence: str) -> GateResult:
    return GateResult(name=name, sentence=sentence, limit=limit, value=value, passed=value >= limit)


def _above(name: str, value: float, limit: float, sentence: str) -> GateResult:
    return GateResult(name=name, sentence=sentence, limit=limit, value=value, passed=value > limit)


def _at_most(name: str, value: float, limit: float, sentence: str) -> GateResult:
    return GateResult(name=name, sentence=sentence, limit=limit, value=value, passed=value <= limit)


def _summarise_patch(
    prepared: PreparedCorrection, search: SearchOutcome | None
) -> PatchSummary | None:
    selection = None if search is None else search.selection
    if selection is None:
        return None
    is_listed = selection.granularity is not Granularity.WEIGHT
    return PatchSummary(
        granularity=selection.granularity,
        components=len(selection),
        of=prepared.components,
        modules=list_indices(selection) if is_listed else {},
        counts=count_by_module(selection),
    )


def _list_search(search: SearchOutcome | None) -> list[SearchStep]:
    if search is None:
        return []
    return [
        SearchStep(
            components=trial.amount,
            tune_metric=trial.mean_metric,
            perplexity=trial.perplexity,
            perplexity_increase=trial.perplexity / trial.base_perplexity - 1,
            kl=trial.kl_mean,
            within_budget=trial.within_budget,
            chosen=index == search.chosen,
        )
        for index, trial in enumerate(search.trials)
    ]


def _choose_samples(
    prepared: PreparedCorrection,
    search: SearchOutcome | None,
    validation: ValidationOutcome | None,
) -> list[Sample]:
    tune = prepared.triggering(held_out=False)
    held_out = prepared.triggering(held_out=True)
    trial = None if search is None else search.chosen_trial
    if validation is None or trial is None:
        # Nothing was corrected: show what the base model does, the most repetitive first.
        shown = sorted(prepared.prompts, key=lambda outcome: outcome.metric)[:SAMPLES_BEST]
        return [_sample(outcome, None) for outcome in shown]
    pairs = _by_change(held_out, validation.responses)
    best = pairs[:SAMPLES_BEST]
    worst = pairs[SAMPLES_BEST:][-SAMPLES_WORST:]
    tuned = _by_change(tune, trial.responses)[:SAMPLES_TUNE]
    return [_sample(outcome, response) for outcome, response in best + worst + tuned]


def _by_change(
    outcomes: Sequence[PromptOutcome], responses: Sequence[Response]
) -> list[tuple[PromptOutcome, Response]]:
    pairs = zip(outcomes, responses, strict=True)
    return sorted(pairs, key=lambda pair: pair[0].metric - pair[1].metric)


def _sample(outcome: PromptOutcome, response: Response | None) -> Sample:
    after = response or Response(response=outcome.response, metric=outcome.metric)
    return Sample(
        prompt=outcome.prompt,
        split="held_out" if outcome.held_out else "tune",
        before=outcome.response,
        after=after.response,
        metric_before=outcome.metric,
        metric_after=after.metric,
    )
