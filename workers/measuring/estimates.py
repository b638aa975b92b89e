"""Figures that compare two model states, each with its interval; gates compare them with limits.

Intervals of shares are Tango's score interval, those of means an empirical likelihood within the
values' bounds, those of sums over samples the same for the linearised ratio, and those of figures
of a whole set the jackknife's: see `workers.measuring.statistics`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from excise.names import Direction
from workers.measuring.refusals import is_refusal
from workers.measuring.responses import (
    DistinctShare,
    ResponseFigures,
    find_empty,
)
from workers.measuring.state import (
    BehaviourScores,
    MissingFigureError,
    ModelState,
    Responses,
    TextLosses,
    require,
)
from workers.measuring.statistics import (
    compute_change_interval,
    compute_jackknife_interval,
    compute_paired_share_interval,
    compute_ratio_interval,
    compute_share_interval,
)

LEAST_ANSWERED = 0.5
"""In both states, at least this share of responses must finish reasoning within the token limit;
otherwise a figure says more about the limit than about the model. Chosen by hand."""


@dataclass(frozen=True)
class Pair:
    """A base state and a changed state, and the part of them that is compared."""

    base: ModelState
    changed: ModelState
    subject: str
    """Name of a prompt set, a task or a behaviour."""


@dataclass(frozen=True)
class Estimate:
    """The size of a change with its interval, and the figures before and after."""

    value: float
    ci_low: float
    ci_high: float
    """The 95 % interval of `value`."""
    before: float
    after: float
    count: int
    """Number of prompts, questions or samples it was computed from."""
    most: float = math.inf
    """Largest possible `value`, given the base's figure."""
    remark: str | None = None
    """A remark to show with the figure."""


Estimator = Callable[[Pair], Estimate]
"""Raises `ValueError`, such as `MissingFigureError`, if the pair does not give the figure."""


def estimate_perplexity_increase(pair: Pair) -> Estimate:
    """Return the relative increase of perplexity, after / before − 1."""
    before, after = _find_losses(pair.base), _find_losses(pair.changed)
    if before.lengths != after.lengths:
        raise MissingFigureError("perplexity: the two states were measured on different texts")
    changes = [new - old for old, new in zip(before.losses, after.losses, strict=True)]
    low, high = compute_ratio_interval(changes, before.lengths)
    tokens = sum(before.lengths)
    return Estimate(
        value=math.expm1(math.fsum(changes) / tokens),
        ci_low=math.expm1(low),
        ci_high=math.expm1(high),
        before=math.exp(math.fsum(before.losses) / tokens),
        after=math.exp(math.fsum(after.losses) / tokens),
        count=len(before.lengths),
    )


def estimate_divergence(pair: Pair) -> Estimate:
    """Return the mean of KL(base ‖ changed), nats per token."""
    found = require(pair.changed.divergence, "divergence")
    value = math.fsum(found.divergences) / sum(found.lengths)
    low, high = compute_ratio_interval(found.divergences, found.lengths)
    return Estimate(value, low, high, before=0.0, after=value, count=len(found.lengths))


def estimate_refusal_rise(pair: Pair) -> Estimate:
    """Return the increase in the share of prompts refused.

    An answer that says nothing is no refusal, so that a model that falls silent would seem to
    refuse less. Raises `MissingFigureError` if more than half of either state's say nothing.
    """
    found = _estimate_share_rise(*find_refusals(pair))
    return replace(found, remark=_describe_silence(pair))


def estimate_refusal_fall(pair: Pair) -> Estimate:
    """Return the decrease in the share of prompts refused."""
    return _estimate_share_fall(*find_refusals(pair))


def estimate_empty_rise(pair: Pair) -> Estimate:
    """Return the increase in the share of empty responses."""
    before, after = find_figures(pair)
    return _estimate_share_rise(before.is_empty, after.is_empty)


def estimate_limit_rise(pair: Pair) -> Estimate:
    """Return the increase in the share of responses cut off at the token limit."""
    before, after = find_figures(pair)
    return _estimate_share_rise(before.hits_limit, after.hits_limit)


def estimate_length_ratio(pair: Pair) -> Estimate:
    """Return the ratio of mean response lengths in tokens, after / before."""
    before, after = find_figures(pair)
    return _estimate_ratio(before.lengths, after.lengths)


def estimate_uniqueness_fall(pair: Pair) -> Estimate:
    """Return 1 − mean response uniqueness after / before."""
    before, after = _find_answer_figures(pair)
    ratio = _estimate_ratio(before.uniqueness, after.uniqueness)
    return replace(ratio, value=1 - ratio.value, ci_low=1 - ratio.ci_high, ci_high=1 - ratio.ci_low)


def estimate_self_repetition_rise(pair: Pair) -> Estimate:
    """Return the increase in the mean share of a response's 4-grams that repeat earlier ones."""
    before, after = _find_answer_figures(pair)
    return _estimate_mean_rise(before.self_repetition, after.self_repetition)


def estimate_diversity_fall(pair: Pair) -> Estimate:
    """Return 1 − distinct-n after / before, for the n among 1, 2 and 3 that fell most."""
    before, after = _find_answer_figures(pair)
    falls = [
        _estimate_distinct_fall(old, new)
        for old, new in zip(before.distinct, after.distinct, strict=True)
    ]
    return max(falls, key=lambda fall: fall.value)


def estimate_accuracy_drop(pair: Pair) -> Estimate:
    """Return the decrease in the share of a task's questions answered right."""
    before = require(pair.base.zero_shot.get(pair.subject), "base")
    after = require(pair.changed.zero_shot.get(pair.subject), "changed")
    return _estimate_share_fall(before.right, after.right)


def estimate_shown_rise(pair: Pair) -> Estimate:
    """Return the increase in the share of responses that show a behaviour."""
    before, after = _find_scores(pair)
    if before.samples == 1:
        found = _estimate_share_rise(
            [bool(shown) for shown in before.shown], [bool(shown) for shown in after.shown]
        )
    else:
        found = _estimate_mean_rise(before.shares, after.shares)
        # Computed from the counts, as in `_estimate_share_rise`.
        rise = (sum(after.shown) - sum(before.shown)) / (before.samples * found.count)
        found = replace(found, value=rise, most=1 - before.share)
    return replace(found, remark=_describe_shown(before, after))


def estimate_shown_share(pair: Pair) -> Estimate:
    """Return the share of the changed state's responses that show a behaviour.

    For the interval, all responses to one prompt count as a single draw, which can make it too
    wide but never too narrow.
    """
    before, after = _find_scores(pair)
    low, high = compute_share_interval(after.share, len(after.shown))
    remark = _describe_shown(before, after)
    return Estimate(
        after.share, low, high, before.share, after.share, len(after.shown), most=1, remark=remark
    )


def estimate_improvement(pair: Pair) -> Estimate:
    """Return how far a behaviour's mean score moved in its good direction."""
    before, after = _find_scores(pair)
    if pair.subject in pair.base.responses:
        _find_answers(pair)
    rise = _estimate_mean_rise(*_punish_empty(before, after))
    return rise if before.direction is Direction.HIGHER_IS_BETTER else _mirror(rise)


def estimate_sure_improvement(pair: Pair) -> Estimate:
    """Return the improvement with its interval's lower end as the value: the least that is sure."""
    found = estimate_improvement(pair)
    return replace(found, value=found.ci_low)


def _punish_empty(
    before: BehaviourScores, after: BehaviourScores
) -> tuple[list[float], list[float]]:
    """Return both states' scores, giving every empty response the worst score that occurs.

    Otherwise a model could improve by not answering.
    """
    worst = min if before.direction is Direction.HIGHER_IS_BETTER else max
    value = worst([*before.scores, *after.scores], default=0.0)

    def punish(found: BehaviourScores) -> list[float]:
        is_empty = found.is_empty or (False,) * len(found.scores)
        pairs = zip(found.scores, is_empty, strict=True)
        return [value if empty else score for score, empty in pairs]

    return punish(before), punish(after)


def _find_losses(state: ModelState) -> TextLosses:
    return require(state.perplexity, "perplexity")


def _find_scores(pair: Pair) -> tuple[BehaviourScores, BehaviourScores]:
    before, after = (
        require(state.behaviours.get(pair.subject), f"scores of {pair.subject}, {whose}")
        for state, whose in ((pair.base, "base"), (pair.changed, "changed"))
    )
    if before.direction != after.direction:
        raise MissingFigureError("the two states were scored in different directions")
    if (before.samples, len(before.shown)) != (after.samples, len(after.shown)):
        raise MissingFigureError("the two states answered unequally many times")
    return before, after


def _describe_shown(before: BehaviourScores, after: BehaviourScores) -> str:
    responses = before.samples * len(before.shown)
    return (
        f"{sum(after.shown)} of {responses} responses show it, {sum(before.shown)} of the base's; "
        f"mean score {fmean(after.scores):.3g}, the base's {fmean(before.scores):.3g}"
    )


def _find_responses(pair: Pair) -> tuple[Responses, Responses]:
    before = require(pair.base.responses.get(pair.subject), f"base, {pair.subject} prompts")
    after = require(pair.changed.responses.get(pair.subject), f"changed, {pair.subject} prompts")
    if (before.prompts, before.max_new_tokens) != (after.prompts, after.max_new_tokens):
        raise MissingFigureError("the two states answered different prompts, or at other lengths")
    if not before.prompts:
        raise MissingFigureError(f"there are no {pair.subject} prompts")
    return before, after


def _find_answers(pair: Pair) -> tuple[Responses, Responses]:
    """Return both states' responses; raises `MissingFigureError` if too few reach an answer."""
    before, after = _find_responses(pair)
    for side, found in (("base", before), ("changed", after)):
        if found.unanswered > (1 - LEAST_ANSWERED) * len(found.prompts):
            raise MissingFigureError(f"{side}, {pair.subject}: {found.describe_unanswered()}")
    return before, after


def describe_unanswered(pair: Pair) -> str:
    """Return a note on responses cut off while reasoning; empty if there are none."""
    parts = []
    for side, state in (("base", pair.base), ("changed", pair.changed)):
        found = state.responses.get(pair.subject)
        if isinstance(found, Responses) and found.unanswered:
            parts.append(f"{side}: {found.describe_unanswered()}")
    return "; ".join(parts)


def find_refusals(pair: Pair) -> tuple[list[bool], list[bool]]:
    """Return which of both states' answers refuse; raises if too few responses reach an answer."""
    before, after = _find_answers(pair)
    return [is_refusal(text) for text in before.texts], [is_refusal(text) for text in after.texts]


def _describe_silence(pair: Pair) -> str | None:
    """Return a remark if more answers say nothing than before; raises if most do."""
    before, after = _find_responses(pair)
    old, new = (sum(find_empty(found.answer_ids, found.texts)) for found in (before, after))
    count = len(before.prompts)
    for side, empty in (("base", old), ("changed", new)):
        if empty > (1 - LEAST_ANSWERED) * count:
            raise MissingFigureError(
                f"{side}, {pair.subject}: {empty} of {count} answers say nothing, which is neither "
                "a refusal nor an answer"
            )
    if new <= old:
        return None
    return f"{new} of {count} answers say nothing, {old} of the base's: they count as not refused"


def _find_answer_figures(pair: Pair) -> tuple[ResponseFigures, ResponseFigures]:
    """Return both states' response figures; raises if too few responses reach an answer."""
    _find_answers(pair)
    return find_figures(pair)


def find_figures(pair: Pair) -> tuple[ResponseFigures, ResponseFigures]:
    """Return both states' response figures; raises `MissingFigureError` if either is missing."""
    before, after = _find_responses(pair)
    return before.compute_figures(), after.compute_figures()


def _estimate_share_rise(before: Sequence[bool], after: Sequence[bool]) -> Estimate:
    low, high = compute_paired_share_interval(before, after)
    old, new, count = fmean(before), fmean(after), len(before)
    # Computed from the counts, because 0.75 − 0.7 exceeds a limit of 0.05 by rounding.
    rise = (sum(after) - sum(before)) / count
    return Estimate(rise, low, high, old, new, count, most=1 - old)


def _estimate_share_fall(before: Sequence[bool], after: Sequence[bool]) -> Estimate:
    found = _mirror(_estimate_share_rise(before, after))
    return replace(found, most=found.before)


def _estimate_mean_rise(before: Sequence[float], after: Sequence[float]) -> Estimate:
    low, high = compute_change_interval(before, after)
    old, new = fmean(before), fmean(after)
    return Estimate(new - old, low, high, old, new, len(before))


def _estimate_ratio(before: Sequence[float], after: Sequence[float]) -> Estimate:
    if not any(before):
        raise MissingFigureError(
            "the base's responses are all empty, so that nothing can be compared with them; give "
            "prompts that it answers"
        )
    low, high = compute_ratio_interval(after, before)
    old, new = fmean(before), fmean(after)
    return Estimate(new / old, low, high, old, new, len(before))


def _estimate_distinct_fall(before: DistinctShare, after: DistinctShare) -> Estimate:
    if not before.value or not all(before.without_one):
        raise MissingFigureError(
            f"the base's responses hold too few {before.order}-grams; give more prompts"
        )
    value = 1 - after.value / before.value
    parts = zip(before.without_one, after.without_one, strict=True)
    low, high = compute_jackknife_interval(value, [1 - new / old for old, new in parts])
    return Estimate(value, low, high, before.value, after.value, len(before.without_one))


def _mirror(found: Estimate) -> Estimate:
    """Return the estimate of the opposite change; `before` and `after` stay the same."""
    return replace(
        found,
        value=0.0 - found.value,  # not -found.value, which turns 0 into −0
        ci_low=0.0 - found.ci_high,
        ci_high=0.0 - found.ci_low,
        most=math.inf,
    )
