"""The gate on abilities: two models' figures on the same slices, and whether losses are allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Protocol

from excise.reports.abilities import AbilityChange
from excise.reports.gates import GateResult
from workers.abilities.probe import Right, SliceKind
from workers.abilities.state import Abilities, SliceFigures
from workers.gates.rows import Figure, judge_figure
from workers.gates.table import ABILITIES
from workers.measuring.state import ModelState
from workers.measuring.statistics import compute_change_interval, compute_ratio_interval

LEAST_ACCURACY = 0.1
"""A slice counts as an ability of a model if it gets at least this share of items right. Below six
right of sixty, a fall of five points would be half of all, and mostly noise. Chosen by hand."""

UNMEASURED = "abilities could not be measured for both models in the same tokens"
SHOWS_NOTHING = (
    "shows nothing: the base can do none of the slices, so this gate could not have failed"
)

ROUNDING = 1e-9
"""A limit counts as exceeded only beyond this, because of rounding: 48 and then 45 of 60 right
differ by 0.05 + 4e-17."""

NAMED_LOSSES = 6
"""Largest number of slices that a gate's sentence names; the report lists all. Chosen by hand."""


class SliceLimits(Protocol):
    """How far one slice may fall; None means no limit."""

    @property
    def max_nats_rise(self) -> float | None:
        """Largest rise of the negative log-likelihood of right continuations, nats per token."""

    @property
    def max_accuracy_fall(self) -> float | None:
        """Largest fall of the share of items that are right."""


class AbilityLimits(Protocol):
    """The limits of all slices."""

    def limits_of(self, name: str) -> SliceLimits:
        """Return the limits of the slice `name`."""


def compare_slices(
    kinds: Sequence[SliceKind],
    base: Mapping[str, SliceFigures],
    changed: Mapping[str, SliceFigures],
    control: Mapping[str, SliceFigures],
    limits: AbilityLimits,
) -> list[AbilityChange]:
    """Return the change of every slice, in the order of `kinds`.

    `control` holds the figures of a random selection, on the first items of each slice; slices
    missing from it have no control. Raises `ValueError` if base and changed were measured on
    different items.
    """
    return [
        _compare(kind, base[kind.name], changed[kind.name], control.get(kind.name), limits)
        for kind in kinds
        if kind.name in base
    ]


def compare_states(
    kinds: Sequence[SliceKind],
    base: ModelState,
    changed: ModelState,
    control: Mapping[str, SliceFigures],
    limits: AbilityLimits | None,
) -> list[AbilityChange]:
    """Return the change of every slice between two states.

    Empty if abilities are not asked for or could not be measured in one of the states.
    """
    before, after = base.abilities, changed.abilities
    if limits is None or not isinstance(before, Abilities) or not isinstance(after, Abilities):
        return []
    return compare_slices(kinds, before.slices, after.slices, control, limits)


def _compare(
    kind: SliceKind,
    base: SliceFigures,
    changed: SliceFigures,
    control: SliceFigures | None,
    limits: AbilityLimits,
) -> AbilityChange:
    if base.tokens != changed.tokens:
        raise ValueError(f"abilities: {kind.name} was measured on different items")
    own = limits.limits_of(kind.name)
    before, after = score_items(kind, base), score_items(kind, changed)
    nats = compute_nats_rise(base, changed)
    rises = [new - old for old, new in zip(base.nats, changed.nats, strict=True)]
    fall = fmean(before) - fmean(after)
    is_able = fmean(before) >= LEAST_ACCURACY
    return AbilityChange(
        name=kind.name,
        area=kind.area.value,
        sentence=kind.sentence,
        items=len(before),
        nats_before=sum(base.nats) / sum(base.tokens),
        nats_change=nats,
        nats_interval=compute_ratio_interval(rises, base.tokens),
        accuracy_before=fmean(before),
        accuracy_after=fmean(after),
        accuracy_interval=compute_change_interval(before, after),
        **_describe_control(kind, base, control),
        max_nats_rise=own.max_nats_rise,
        max_accuracy_fall=own.max_accuracy_fall,
        is_gated=is_able,
        within=not is_able
        or not (_exceeds(nats, own.max_nats_rise) or _exceeds(fall, own.max_accuracy_fall)),
    )


def _describe_control(
    kind: SliceKind, base: SliceFigures, control: SliceFigures | None
) -> dict[str, float]:
    """Return the control's changes from the base's figures on the same items."""
    if control is None:
        return {}
    same = base.first(len(control.tokens))
    return {
        "control_nats_change": compute_nats_rise(same, control),
        "control_accuracy_change": fmean(score_items(kind, control))
        - fmean(score_items(kind, same)),
    }


def score_items(kind: SliceKind, figures: SliceFigures) -> list[float]:
    """Return the score of each item, in [0, 1], by the slice's rule of what counts as right."""
    pairs = zip(figures.right, figures.tokens, strict=True)
    if kind.right is Right.TOKENS:
        return [right / tokens for right, tokens in pairs]
    return [float(right == tokens) for right, tokens in pairs]


def compute_nats_rise(base: SliceFigures, changed: SliceFigures) -> float:
    """Return the rise of the negative log-likelihood on the same items, nats per token."""
    return (sum(changed.nats) - sum(base.nats)) / sum(base.tokens)


def compute_soft_fall(base: SliceFigures, changed: SliceFigures) -> float:
    """Return the fall of the share of items that are right, smoothed: an item counts as σ(lead).

    With few items, the plain share would jump with every item that is just right or just wrong;
    an item's smallest lead shows how near it is to that.
    """
    pairs = zip(base.leads, changed.leads, strict=True)
    return fmean(_squash(before) - _squash(after) for before, after in pairs)


def _squash(lead: float) -> float:
    return 1 / (1 + math.exp(-lead)) if lead > -700 else 0.0


def judge_abilities(changes: Sequence[AbilityChange]) -> GateResult:
    """Return the gate's result: met if no ability of the base falls by more than its limits.

    It is not met if there are no changes, for example because nothing could be measured.
    """
    lost = [change for change in changes if not change.within]
    gated = [change for change in changes if change.is_gated]
    figure = Figure(
        float(len(lost)) if changes else None,
        count=sum(change.items for change in gated) or None,
        unmeasured=None if changes else UNMEASURED,
        note=_describe(changes, lost),
    )
    return judge_figure(ABILITIES, 0.0, figure)


def _describe(changes: Sequence[AbilityChange], lost: Sequence[AbilityChange]) -> str | None:
    """Return a note that helps to judge the gate; None if none is needed."""
    if lost:
        return describe_losses(lost)
    is_able = any(change.is_gated for change in changes)
    return None if is_able or not changes else SHOWS_NOTHING


def describe_losses(lost: Sequence[AbilityChange]) -> str:
    """Return the sentence that names the lost abilities, the worst first."""
    worst = sorted(lost, key=lambda change: change.accuracy_after - change.accuracy_before)
    told = [
        f"{change.sentence} ({change.accuracy_before:.0%} → {change.accuracy_after:.0%} right, "
        f"{change.nats_change:+.2f} nats a token)"
        for change in worst[:NAMED_LOSSES]
    ]
    more = f"; and {len(lost) - NAMED_LOSSES} more" if len(lost) > NAMED_LOSSES else ""
    return f"the model can no longer, or not as well, {'; '.join(told)}{more}"


def _exceeds(value: float, limit: float | None) -> bool:
    return limit is not None and value > limit + ROUNDING
