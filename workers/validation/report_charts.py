"""Charts of a report: axes, the rounds of the search and the map of pruned layers, as numbers."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from workers.domain import BehaviourEffect, Report, SearchStep


@dataclass(frozen=True)
class Axis:
    """A linear scale with round ticks."""

    low: float
    high: float
    ticks: list[float]
    digits: int

    def at(self, value: float, start: float, end: float, clipped: bool = True) -> float:
        """The coordinate of `value` between `start` and `end`, by default never beyond them."""
        share = (value - self.low) / (self.high - self.low)
        share = min(1.0, max(0.0, share)) if clipped else share
        return round(start + (end - start) * share, 2)


def build_axis(values: Sequence[float], intervals: int = 4) -> Axis:
    """An axis over `values` whose ticks are 1, 2 or 5 times a power of ten."""
    low, high = min(values), max(values)
    span = high - low
    if span <= 1e-9 * max(abs(low), abs(high), 1e-9):
        span = max(abs(high), 1e-9)
    magnitude = 10.0 ** math.floor(math.log10(span / intervals))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude * intervals >= span * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = [round(step * position, digits + 2) for position in range(first, last + 1)]
    return Axis(ticks[0], ticks[-1], ticks, digits)


def build_effect_axis(effect: BehaviourEffect) -> Axis:
    """An axis over a behaviour's threshold, means and intervals, zero included."""
    values = [0.0, effect.threshold, effect.tune.before, effect.tune.after]
    for measured in (effect.held_out, effect.random_control):
        if measured:
            values += [measured.before, measured.after]
            values += [measured.before + measured.ci_low, measured.before + measured.ci_high]
    if min(values) >= 0 and 0.5 <= max(values) <= 1:
        values.append(1.0)
    return build_axis(values, intervals=5)


@dataclass(frozen=True)
class SearchPoint:
    """One round of the search as drawn; `x` is in [0, 1]."""

    step: SearchStep
    x: float
    labelled: bool
    damage: float
    beyond: bool
    """True where the damage lies above the axis and is drawn at its edge."""
    damage_labelled: bool


@dataclass(frozen=True)
class SearchChart:
    """The rounds of the search: the tuning metric and the perplexity change, with each amount."""

    points: list[SearchPoint]
    metric_axis: Axis
    damage_axis: Axis
    """Perplexity change in %."""


def build_search_chart(report: Report) -> SearchChart | None:
    """The search as points, round by round; None without a search."""
    steps = report.search
    if not steps:
        return None
    damages = [100 * s.perplexity_increase for s in steps]
    floor = min(0.0, *damages)
    allowed = [d for d, s in zip(damages, steps, strict=True) if s.within_budget]
    ceiling = max(damages)
    if allowed:  # keep the amounts that count readable beside ruinous ones
        ceiling = min(ceiling, floor + max(4 * (max(allowed) - floor), 1e-3 * (ceiling - floor)))
    axis = build_axis([floor, *(min(d, ceiling) for d in damages), ceiling], intervals=3)
    last = max(len(steps) - 1, 1)
    xs = [position / last if len(steps) > 1 else 0.5 for position in range(len(steps))]
    labels = _spaced_labels(xs, [s.chosen for s in steps], gap=0.085)
    edge_xs = [x for x, damage in zip(xs, damages, strict=True) if damage > axis.high]
    edge_labels = _spaced_labels(edge_xs[::-1], [False] * len(edge_xs), gap=0.16)
    written = {x for x, label in zip(edge_xs[::-1], edge_labels, strict=True) if label}
    return SearchChart(
        points=[
            SearchPoint(step, x, labelled, damage, damage > axis.high, x in written)
            for step, x, damage, labelled in zip(steps, xs, damages, labels, strict=True)
        ],
        metric_axis=build_axis([s.tune_metric for s in steps], intervals=3),
        damage_axis=axis,
    )


def _spaced_labels(xs: list[float], chosen: list[bool], gap: float) -> list[bool]:
    """Which points have room for a label; the chosen one always has."""
    kept: list[float] = [x for x, is_chosen in zip(xs, chosen, strict=True) if is_chosen]
    labels = []
    for x, is_chosen in zip(xs, chosen, strict=True):
        free = all(abs(x - other) >= gap for other in kept)
        kept += [x] if free else []
        labels.append(free or is_chosen)
    return labels


@dataclass(frozen=True)
class LayerMap:
    """How many components were pruned in each layer, layers without any included."""

    layers: list[tuple[int, int]]
    elsewhere: int
    """Pruned components in modules whose name has no layer number."""
    axis: Axis


def layer_of(module: str) -> int | None:
    """The layer number in a module's name, as in `model.layers.12.mlp.down_proj`."""
    found = re.search(r"(?:^|\.)(\d+)(?:\.|$)", module, re.ASCII)
    return int(found[1]) if found else None


def build_layer_map(report: Report) -> LayerMap | None:
    """The pruned components counted by layer; None without a patch."""
    if report.patch is None or not report.patch.counts:
        return None
    counts: Counter[int | None] = Counter()
    for module, count in report.patch.counts.items():
        counts[layer_of(module)] += count
    numbered = [layer for layer in counts if layer is not None]
    layers = [(layer, counts[layer]) for layer in range(max(numbered, default=-1) + 1)]
    top = max([1, *(count for _, count in layers)])
    return LayerMap(layers, counts[None], build_axis([0, max(2, top)], intervals=3))


@dataclass(frozen=True)
class PrunedModule:
    """What was pruned in one module."""

    name: str
    count: int
    indices: list[int]
    """Ascending; empty where single weights are only counted."""


def order_modules(report: Report) -> list[PrunedModule]:
    """Modules with their pruned components, by layer number and not by the file's order."""
    if report.patch is None:
        return []
    numbered = ((layer_of(module), module) for module in report.patch.counts)
    order = sorted((-1 if layer is None else layer, module) for layer, module in numbered)
    listed = report.patch.modules
    return [
        PrunedModule(module, report.patch.counts[module], sorted(listed.get(module, [])))
        for _, module in order
    ]
