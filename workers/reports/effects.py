"""The effects section of a report: each behaviour by evaluator, beside its control, and alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from excise.names import BehaviourKind, Direction, MeasureName
from excise.reports.correction import (
    BehaviourEffect,
    ControlledEffect,
    CorrectionReport,
    EvaluatorEffect,
    HeldOutEffect,
    Measure,
)
from excise.reports.text import format_number, format_share, format_signed
from workers.reports.charts import Axis, build_axis

_TITLES = {
    MeasureName.SHARE: (
        "Share of responses",
        "Responses that show the behaviour, of all; an empty one counts as showing it.",
    ),
    MeasureName.ANY_SHARE: (
        "Probability of at least one",
        "Prompts of whose samples at least one shows the behaviour.",
    ),
    MeasureName.EXPECTED_WORST: (
        "Expected worst score",
        "The worst score among a prompt's samples, averaged over prompts.",
    ),
    MeasureName.MEAN_SCORE: ("Mean score", "Averaged over all responses."),
}
_SHARES = frozenset({MeasureName.SHARE, MeasureName.ANY_SHARE})
_COUNTED_KINDS = frozenset({BehaviourKind.REPETITION, BehaviourKind.PHRASE})
"""Kinds of behaviour that are counted exactly, so that any evaluator would agree."""
_SAME_WITH_ONE_SAMPLE = {
    MeasureName.ANY_SHARE: MeasureName.SHARE,
    MeasureName.EXPECTED_WORST: MeasureName.MEAN_SCORE,
}


@dataclass(frozen=True)
class Lane:
    """One line of a chart: a figure measured after one way of pruning."""

    kind: str
    """`correction`, `control` or `alone`."""
    label: str
    effect: HeldOutEffect


@dataclass(frozen=True)
class EffectRow:
    """One figure by one evaluator."""

    evaluator: str
    is_higher_better: bool
    measure: Measure

    @property
    def lanes(self) -> list[Lane]:
        """The figures measured on held-out prompts, the correction's first."""
        found = (
            ("correction", "correction", self.measure.held_out),
            ("control", "random", self.measure.random_control),
            ("alone", "alone", self.measure.alone),
        )
        return [Lane(kind, label, effect) for kind, label, effect in found if effect is not None]

    @property
    def lane_count(self) -> int:
        """Number of lines that it takes in a chart."""
        return len(self.lanes)


@dataclass(frozen=True)
class EffectPanel:
    """One figure of a behaviour by every evaluator, on one axis."""

    name: str
    title: str
    meaning: str
    is_headline: bool
    is_share: bool
    rows: list[EffectRow]
    axis: Axis
    """Axis of the figure times `scale`."""

    @property
    def scale(self) -> int:
        """Factor for drawing: 100 for shares, which are drawn in per cent, otherwise 1."""
        return 100 if self.is_share else 1

    @property
    def has_alone(self) -> bool:
        """Whether each behaviour was also corrected alone."""
        return any(row.measure.alone for row in self.rows)

    def level(self, value: float) -> str:
        """Return the figure formatted for readers."""
        return format_share(value) if self.is_share else format_number(value)

    def change(self, value: float) -> str:
        """Return a change of the figure without its unit; for shares, in percentage points."""
        return format_signed(100 * value, 1) if self.is_share else format_signed(value)

    def difference(self, value: float) -> str:
        """Return a change of the figure with its unit."""
        return f"{self.change(value)}{' points' if self.is_share else ''}"

    def interval(self, effect: HeldOutEffect | ControlledEffect) -> str:
        """Return the interval of a change, formatted for readers."""
        return f"{self.change(effect.ci_low)} to {self.change(effect.ci_high)}"


@dataclass(frozen=True)
class EffectView:
    """One behaviour's figures."""

    behaviour: BehaviourEffect
    panels: list[EffectPanel]
    """One panel per figure, the headline figure first."""
    has_one_sample: bool
    """Whether prompts have one sample each; figures over a prompt's samples are then left out."""

    @property
    def headline(self) -> EffectPanel:
        """The figure that must improve."""
        return self.panels[0]

    @property
    def is_measured(self) -> bool:
        """Whether any figure was measured on held-out prompts."""
        return any(row.lanes for panel in self.panels for row in panel.rows)


@dataclass(frozen=True)
class AloneRow:
    """The common correction's change of a behaviour, compared with that of its own correction."""

    behaviour: str
    evaluator: str
    panel: EffectPanel
    together: HeldOutEffect
    alone: HeldOutEffect
    reached: float | None
    """Common change divided by own change; None if its own correction changes nothing."""


def build_effect_views(report: CorrectionReport) -> list[EffectView]:
    """Return every behaviour with its figures, in the report's order."""
    return [_build_view(behaviour) for behaviour in report.behaviours if behaviour.evaluators]


def _build_view(behaviour: BehaviourEffect) -> EffectView:
    names = [name for name in _TITLES if _has(behaviour, name)]
    repeated = {
        name
        for name, like in _SAME_WITH_ONE_SAMPLE.items()
        if name in names and like in names and _are_same(behaviour, name, like)
    }
    kept = [name for name in names if name not in repeated or name == behaviour.headline]
    kept.sort(key=lambda name: name != behaviour.headline)
    panels = [_build_panel(behaviour, name) for name in kept]
    return EffectView(behaviour, panels, has_one_sample=bool(repeated))


def _has(behaviour: BehaviourEffect, name: MeasureName) -> bool:
    return all(
        any(measure.name == name for measure in evaluator.measures)
        for evaluator in behaviour.evaluators
    )


def _are_same(behaviour: BehaviourEffect, name: MeasureName, like: MeasureName) -> bool:
    return all(
        _figures(evaluator, name) == _figures(evaluator, like) for evaluator in behaviour.evaluators
    )


def _figures(evaluator: EvaluatorEffect, name: MeasureName) -> dict[str, object]:
    return evaluator.measure(name).model_dump(exclude={"name"})


def _build_panel(behaviour: BehaviourEffect, name: MeasureName) -> EffectPanel:
    title, meaning = _TITLES[name]
    is_share = name in _SHARES
    rows = [
        EffectRow(
            evaluator=evaluator.evaluator,
            is_higher_better=not is_share and evaluator.direction is Direction.HIGHER_IS_BETTER,
            measure=evaluator.measure(name),
        )
        for evaluator in behaviour.evaluators
    ]
    return EffectPanel(
        name=name,
        title=title,
        meaning=meaning,
        is_headline=name == behaviour.headline,
        is_share=is_share,
        rows=rows,
        axis=_build_axis(rows, is_share, behaviour.threshold),
    )


def _build_axis(rows: Sequence[EffectRow], is_share: bool, threshold: float) -> Axis:
    """Return an axis over all figures and intervals and zero; for scores also the threshold."""
    values = [0.0] if is_share else [0.0, threshold]
    for row in rows:
        values += [row.measure.tune.before, row.measure.tune.after]
        for lane in row.lanes:
            effect = lane.effect
            values += [effect.before, effect.after]
            values += [effect.before + effect.ci_low, effect.before + effect.ci_high]
    scale = 100 if is_share else 1
    if is_share:
        values = [min(1.0, max(0.0, value)) for value in values]
    return build_axis([scale * value for value in values])


def describe_fall(effect: HeldOutEffect) -> str:
    """Return by what factor a share fell, as text; empty if it did not fall."""
    if not effect.after < effect.before:
        return ""
    return "none left" if effect.after == 0 else f"{effect.before / effect.after:.1f}× fewer"


def is_judged_alone(behaviour: BehaviourEffect) -> bool:
    """Return whether the figures rest on the judgement of a single evaluator."""
    return len(behaviour.evaluators) == 1 and behaviour.kind not in _COUNTED_KINDS


def describe_judges(behaviour: BehaviourEffect) -> str:
    """Return who judges that a response shows the behaviour; empty if it is counted exactly."""
    if is_judged_alone(behaviour):
        return f"judged by one evaluator ({behaviour.evaluators[0].evaluator}) alone"
    count = len(behaviour.evaluators)
    if count == 1:
        return ""
    if behaviour.agreeing == 1:
        return f"any one of {count} evaluators suffices"
    return f"{behaviour.agreeing} of {count} evaluators must agree"


def build_alone_rows(views: Sequence[EffectView]) -> list[AloneRow]:
    """Return each behaviour's headline figure, corrected together and alone, by every evaluator."""
    return [
        AloneRow(
            behaviour=view.behaviour.name,
            evaluator=row.evaluator,
            panel=view.headline,
            together=row.measure.held_out,
            alone=row.measure.alone,
            reached=_compare(row.measure.held_out, row.measure.alone),
        )
        for view in views
        for row in view.headline.rows
        if row.measure.held_out is not None and row.measure.alone is not None
    ]


def _compare(together: HeldOutEffect, alone: HeldOutEffect) -> float | None:
    change = alone.after - alone.before
    return (together.after - together.before) / change if change else None
