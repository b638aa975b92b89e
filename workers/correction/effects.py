"""Figures of a behaviour from responses: before, after, and by random control, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from excise.names import Direction, MeasureName
from excise.plurals import count_noun
from excise.reports.correction import (
    BehaviourEffect,
    ControlledEffect,
    EvaluatorEffect,
    HeldOutEffect,
    Measure,
    RandomControl,
    SplitEffect,
)
from workers.correction.behaviour import Behaviour
from workers.correction.results import (
    BehaviourResponses,
    PreparedBehaviour,
    Response,
    Responses,
)
from workers.measuring.statistics import compute_change_interval

MEASURES = tuple(MeasureName)


@dataclass(frozen=True)
class BehaviourSides:
    """Responses to one behaviour's triggering prompts, by split, before and after."""

    tune_before: Responses
    tune_after: Responses
    held_out_before: Responses
    validated: BehaviourResponses | None
    """None if no correction was measured on held-out prompts."""


def collect_sides(
    prepared: PreparedBehaviour,
    tune_after: Responses | None,
    validated: BehaviourResponses | None,
) -> BehaviourSides:
    """Return the sides of one behaviour; without a correction, before and after are the same."""
    tune = tuple(outcome.responses for outcome in prepared.triggering(held_out=False))
    held_out = tuple(outcome.responses for outcome in prepared.triggering(held_out=True))
    return BehaviourSides(tune, tune if tune_after is None else tune_after, held_out, validated)


def compute_values(
    behaviour: Behaviour, scorer: int, name: MeasureName, responses: Responses
) -> list[float]:
    """Return a figure's value for each prompt by one scorer; their mean is the figure.

    All prompts have the same number of samples, so the mean of the prompts' shares is the share of
    all responses. `any_share` and `expected_worst` are RealToxicityPrompts' probability of at
    least one undesired response and expected maximum (Gehman et al. 2020, section 4). An empty
    response counts as undesired in all figures, see `Behaviour`.
    """
    is_higher_better = behaviour.scorers[scorer].direction is Direction.HIGHER_IS_BETTER
    worst = min if is_higher_better else max

    def of_prompt(samples: Sequence[Response]) -> float:
        scores = [behaviour.find_score(response, scorer) for response in samples]
        if name == MeasureName.MEAN_SCORE:
            return fmean(scores)
        if name == MeasureName.EXPECTED_WORST:
            return worst(scores)
        shown = [behaviour.shows(score, scorer) for score in scores]
        return float(any(shown)) if name == MeasureName.ANY_SHARE else fmean(shown)

    return [of_prompt(samples) for samples in responses]


def build_effect(
    behaviour: Behaviour, prepared: PreparedBehaviour, sides: BehaviourSides
) -> BehaviourEffect:
    """Return all figures of a behaviour by all scorers."""
    return BehaviourEffect(
        name=behaviour.name,
        kind=behaviour.kind,
        headline=behaviour.headline.value,
        threshold=behaviour.threshold,
        agreeing=behaviour.agreeing,
        decoding=describe_decoding(behaviour),
        prompts=len(prepared.prompts),
        triggering=len(sides.tune_before) + len(sides.held_out_before),
        evaluators=[
            EvaluatorEffect(
                evaluator=scorer.name,
                direction=scorer.direction.value,
                measures=[_measure(behaviour, index, name, sides) for name in MEASURES],
            )
            for index, scorer in enumerate(behaviour.scorers)
        ],
    )


def describe_decoding(behaviour: Behaviour) -> str:
    """Return in words how responses are generated."""
    decoding = behaviour.decoding
    if decoding.temperature == 0:
        return f"greedy, up to {decoding.max_new_tokens} tokens"
    return (
        f"{count_noun(decoding.samples, 'sample')} a prompt, temperature {decoding.temperature:g}, "
        f"top-p {decoding.top_p:g}, up to {decoding.max_new_tokens} tokens"
    )


def _measure(
    behaviour: Behaviour, scorer: int, name: MeasureName, sides: BehaviourSides
) -> Measure:
    def values(responses: Responses) -> list[float]:
        return compute_values(behaviour, scorer, name, responses)

    tune = SplitEffect(
        n=len(sides.tune_before),
        before=_mean(values(sides.tune_before)),
        after=_mean(values(sides.tune_after)),
    )
    validated = sides.validated
    if validated is None:
        return Measure(name=name, tune=tune, held_out=None, random_control=None)
    before = values(sides.held_out_before)
    control = average_draws(validated.controls, values)
    corrected, alone = values(validated.corrected), validated.alone
    return Measure(
        name=name,
        tune=tune,
        held_out=_compare(before, corrected),
        random_control=RandomControl(
            **_compare(before, control).model_dump(), draws=len(validated.controls)
        ),
        effect=_subtract(control, corrected),
        alone=None if alone is None else _compare(before, values(alone)),
    )


def average_draws(
    controls: Sequence[Responses], values: Callable[[Responses], list[float]]
) -> list[float]:
    """Return each prompt's value, averaged over the draws of the random control."""
    return [fmean(draws) for draws in zip(*map(values, controls), strict=True)]


def _compare(before: Sequence[float], after: Sequence[float]) -> HeldOutEffect:
    low, high = compute_change_interval(before, after)
    return HeldOutEffect(
        n=len(before), before=fmean(before), after=fmean(after), ci_low=low, ci_high=high
    )


def _subtract(control: Sequence[float], corrected: Sequence[float]) -> ControlledEffect:
    low, high = compute_change_interval(control, corrected)
    value = fmean(corrected) - fmean(control)
    return ControlledEffect(n=len(control), value=value, ci_low=low, ci_high=high)


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0
