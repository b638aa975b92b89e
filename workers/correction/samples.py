"""Choosing the responses that a report shows: the best, the worst, and some tuning ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from excise.names import Direction, Split
from excise.reports.correction import Sample
from workers.correction.behaviour import Behaviour
from workers.correction.effects import BehaviourSides
from workers.correction.results import (
    PreparedBehaviour,
    PreparedCorrection,
    PromptOutcome,
    Response,
    Responses,
)
from workers.measuring.reasoning import describe_answer

SAMPLES_BEST, SAMPLES_WORST, SAMPLES_TUNE = 10, 6, 4


def choose_samples(
    behaviours: Sequence[Behaviour],
    prepared: PreparedCorrection,
    sides: Sequence[BehaviourSides],
) -> list[Sample]:
    """Return, for each behaviour, the responses that improved most and least, held-out ones first.

    Without a correction, they are the base model's most undesired responses.
    """
    rows = zip(behaviours, prepared.behaviours, sides, strict=True)
    return [sample for row in rows for sample in _choose(*row)]


def build_held_out_sample(
    behaviour: Behaviour, outcome: PromptOutcome, before: Response, after: Response
) -> Sample:
    """Return one held-out response before and after."""
    return _sample(behaviour, outcome, before, after, Split.HELD_OUT)


def _choose(
    behaviour: Behaviour, prepared: PreparedBehaviour, sides: BehaviourSides
) -> list[Sample]:
    if sides.validated is None:
        return _show_base(behaviour, prepared)
    held_out = _pair(
        behaviour,
        prepared.triggering(held_out=True),
        sides.held_out_before,
        sides.validated.corrected,
        Split.HELD_OUT,
    )
    tune = _pair(
        behaviour,
        prepared.triggering(held_out=False),
        sides.tune_before,
        sides.tune_after,
        Split.TUNE,
    )
    worst = held_out[SAMPLES_BEST:][-SAMPLES_WORST:]
    return held_out[:SAMPLES_BEST] + worst + tune[:SAMPLES_TUNE]


def _pair(
    behaviour: Behaviour,
    outcomes: Sequence[PromptOutcome],
    before: Responses,
    after: Responses,
    split: Split,
) -> list[Sample]:
    """Return the responses worth showing, the most improved first.

    These are responses that were undesired or became so.
    """
    rows = [
        (_compute_badness(behaviour, old) - _compute_badness(behaviour, new), outcome, old, new)
        for outcome, olds, news in zip(outcomes, before, after, strict=True)
        for old, new in zip(olds, news, strict=True)
        if behaviour.is_failing(old) or behaviour.is_failing(new)
    ]
    rows.sort(key=lambda row: -row[0])
    return [_sample(behaviour, outcome, old, new, split) for _, outcome, old, new in rows]


def _show_base(behaviour: Behaviour, prepared: PreparedBehaviour) -> list[Sample]:
    def responses() -> Iterator[tuple[PromptOutcome, Response]]:
        for outcome in prepared.prompts:
            for response in outcome.responses or outcome.screened:
                yield outcome, response

    shown = sorted(responses(), key=lambda row: -_compute_badness(behaviour, row[1]))
    return [
        _sample(behaviour, outcome, response, response, _find_split(outcome))
        for outcome, response in shown[:SAMPLES_BEST]
    ]


def _compute_badness(behaviour: Behaviour, response: Response) -> float:
    """Return the mean score, turned so that larger is worse."""
    return fmean(
        -score if scorer.direction is Direction.HIGHER_IS_BETTER else score
        for scorer, score in zip(behaviour.scorers, _find_scores(behaviour, response), strict=True)
    )


def _find_scores(behaviour: Behaviour, response: Response) -> list[float]:
    """Return every scorer's score, as it counts in figures."""
    return [behaviour.find_score(response, scorer) for scorer in range(len(behaviour.scorers))]


def _find_split(outcome: PromptOutcome) -> Split:
    return Split.HELD_OUT if outcome.held_out else Split.TUNE


def _sample(
    behaviour: Behaviour,
    outcome: PromptOutcome,
    before: Response,
    after: Response,
    split: Split,
) -> Sample:
    names = [scorer.name for scorer in behaviour.scorers]
    return Sample(
        behaviour=behaviour.name,
        prompt=outcome.prompt,
        split=split,
        before=describe_answer(before.text, before.reasoning_tokens),
        after=describe_answer(after.text, after.reasoning_tokens),
        scores_before=dict(zip(names, _find_scores(behaviour, before), strict=True)),
        scores_after=dict(zip(names, _find_scores(behaviour, after), strict=True)),
        undesired_before=behaviour.is_failing(before),
        undesired_after=behaviour.is_failing(after),
    )
