"""The samples section of a report: grouped by behaviour, ranked by effect, worst cases marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from excise.names import BehaviourKind, Direction, Split
from excise.reports.correction import BehaviourEffect, CorrectionReport, Sample
from workers.measuring.reasoning import LEFT_OUT, NO_ANSWER
from workers.measuring.responses import says_something
from workers.reports.diff import Comparison, compare_responses

_WORST_SHOWN = 6
_BEST_SHOWN = 3
OPEN_KINDS = frozenset({BehaviourKind.REPETITION})
"""Kinds of behaviour whose texts are shown without a click. Texts of other kinds may be unwelcome
on a screen: insults, leaked names, or whatever a user's own scorer finds."""


@dataclass(frozen=True)
class ScoreChange:
    """One evaluator's score of a sample."""

    evaluator: str
    before: float
    after: float


@dataclass(frozen=True)
class SampleView:
    """A sample with its gain and its two responses compared."""

    sample: Sample
    gain: float
    """Improvement of the score, averaged over evaluators; positive is better."""
    caution: str
    """Why this is a worst case; empty if it is not."""
    scores: list[ScoreChange]
    texts: Comparison


@dataclass(frozen=True)
class SampleGroup:
    """Samples under one heading; if `folded`, they are hidden at first."""

    heading: str
    samples: list[SampleView]
    folded: bool = False


@dataclass(frozen=True)
class BehaviourSamples:
    """The samples of one behaviour."""

    behaviour: str
    decoding: str
    is_veiled: bool
    """Whether prompts and responses are shown only after a click."""
    groups: list[SampleGroup]


def build_samples(report: CorrectionReport) -> list[BehaviourSamples]:
    """Return the samples of each behaviour: largest effects, worst cases, the rest, tuning prompts.

    Without a patch there is nothing to compare, and the base model's responses are returned, the
    worst first.
    """
    behaviours = {behaviour.name: behaviour for behaviour in report.behaviours}
    names = list(dict.fromkeys([*behaviours, *(sample.behaviour for sample in report.samples)]))
    found = [
        _build_behaviour(
            name,
            behaviours.get(name),
            [sample for sample in report.samples if sample.behaviour == name],
            has_patch=report.patch is not None,
        )
        for name in names
    ]
    return [samples for samples in found if samples.groups]


def _build_behaviour(
    name: str, behaviour: BehaviourEffect | None, samples: Sequence[Sample], *, has_patch: bool
) -> BehaviourSamples:
    signs = find_signs(behaviour)
    views = [build_view(sample, signs, has_patch=has_patch) for sample in samples]
    groups = _group(views) if has_patch else _group_base(views, signs)
    return BehaviourSamples(
        behaviour=name,
        decoding=behaviour.decoding if behaviour else "",
        is_veiled=behaviour is None or behaviour.kind not in OPEN_KINDS,
        groups=[group for group in groups if group.samples],
    )


def find_signs(behaviour: BehaviourEffect | None) -> dict[str, int]:
    """Return evaluator → 1 if higher scores are better, −1 if lower ones are."""
    evaluators = behaviour.evaluators if behaviour else []
    return {
        one.evaluator: 1 if one.direction is Direction.HIGHER_IS_BETTER else -1
        for one in evaluators
    }


def build_view(sample: Sample, signs: Mapping[str, int], *, has_patch: bool) -> SampleView:
    """Return the view of a sample; `signs` are those of `find_signs`."""
    scored = sample.scores_before.keys() & sample.scores_after.keys()
    names = [name for name in signs if name in scored] + sorted(scored - signs.keys())
    scores = [
        ScoreChange(name, sample.scores_before[name], sample.scores_after[name]) for name in names
    ]
    gains = [signs.get(one.evaluator, -1) * (one.after - one.before) for one in scores]
    gain = fmean(gains) if gains else 0.0
    texts = compare_responses(sample.before, sample.after if has_patch else sample.before)
    return SampleView(sample, gain, "", scores, texts)


def _group(views: Sequence[SampleView]) -> list[SampleGroup]:
    ranked = sorted(views, key=lambda view: -view.gain)
    held_out = [view for view in ranked if view.sample.split is Split.HELD_OUT]
    tune = [view for view in ranked if view.sample.split is Split.TUNE]
    worst_from = max(len(held_out) - _WORST_SHOWN, (len(held_out) + 1) // 2)
    best, worst = held_out[:worst_from], held_out[worst_from:]
    rest = best[_BEST_SHOWN:]
    return [
        SampleGroup("Held-out prompts, largest effect first", best[:_BEST_SHOWN]),
        SampleGroup("Held-out prompts, worst cases", [_caution(v) for v in reversed(worst)]),
        SampleGroup(f"More held-out prompts ({len(rest)})", rest, folded=True),
        SampleGroup(
            f"Tuning prompts ({len(tune)}), used to choose what is pruned", tune, folded=True
        ),
    ]


def _group_base(views: Sequence[SampleView], signs: Mapping[str, int]) -> list[SampleGroup]:
    def badness(view: SampleView) -> float:
        scores = [-signs.get(one.evaluator, -1) * one.before for one in view.scores]
        return fmean(scores) if scores else 0.0

    ranked = sorted(views, key=badness, reverse=True)
    return [SampleGroup("Closest to the behaviour first", ranked)]


def _says_nothing(text: str) -> bool:
    """Return whether a response, as a sample shows it, is empty."""
    return text == NO_ANSWER or not says_something(text.removeprefix(LEFT_OUT))


def _caution(view: SampleView) -> SampleView:
    """Return the view marked as a worst case, with the reason."""
    sample = view.sample
    if _says_nothing(sample.after) and not _says_nothing(sample.before):
        why = "no longer answers"
    elif sample.undesired_after and not sample.undesired_before:
        why = "newly shows the behaviour"
    elif view.gain < 0:
        why = "got worse"
    elif view.gain == 0:
        why = "unchanged"
    else:
        why = "still shows the behaviour" if sample.undesired_after else "smallest gain"
    return SampleView(sample, view.gain, why, view.scores, view.texts)
