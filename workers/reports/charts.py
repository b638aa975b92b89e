"""Building blocks of a report's charts: axes with round ticks, and the map of layers."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from excise.reports.correction import PatchSummary

_ROUND_STEPS = (1, 2, 5)

MOST_TICKS = 7
"""Largest number of ticks on a logarithmic axis. Chosen by hand."""


@dataclass(frozen=True)
class Axis:
    """A scale with round ticks, linear or logarithmic."""

    low: float
    high: float
    ticks: list[float]
    digits: int
    """Number of decimals of a linear axis's ticks."""
    is_logarithmic: bool = False

    def at(self, value: float, start: float, end: float) -> float:
        """Return the coordinate of `value`, at least `start` and at most `end`."""
        if self.is_logarithmic:
            value = max(value, self.low)  # zero has no place on it
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(start + (end - start) * min(1.0, max(0.0, share)), 2)


def build_axis(values: Sequence[float], intervals: int = 4) -> Axis:
    """Return an axis over `values`, with ticks at multiples of 1, 2 or 5 times a power of ten."""
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


def build_log_axis(values: Sequence[float]) -> Axis:
    """Return a logarithmic axis over the positive `values`, of which there must be one.

    Its ticks are 1, 2 and 5 times powers of ten, or, if these are too many, only every few powers.
    """
    positive = [value for value in values if value > 0]
    low, high = min(positive), max(positive)
    first = math.floor(math.log10(low) + 1e-9)
    last = math.ceil(math.log10(high) - 1e-9)
    grid = [m * 10.0**power for power in range(first, last + 1) for m in _ROUND_STEPS]
    start = max([tick for tick in grid if tick <= low * (1 + 1e-9)], default=grid[0])
    end = next(tick for tick in grid if tick >= high * (1 - 1e-9) and tick > start)
    ticks = [tick for tick in grid if start <= tick <= end]
    if len(ticks) > MOST_TICKS:
        every = math.ceil((last - first + 1) / MOST_TICKS)
        powers = [10.0**power for power in range(first, last + 1, every)]
        ticks = [tick for tick in powers if start <= tick <= end]
    return Axis(start, end, ticks, 0, is_logarithmic=True)


def choose_labels(places: Sequence[float], always: Sequence[bool], gap: float) -> list[bool]:
    """Return which of the ascending places get a label: those in `always`, and others with room."""
    kept = [place for place, is_kept in zip(places, always, strict=True) if is_kept]
    labels = []
    for place, is_kept in zip(places, always, strict=True):
        is_free = all(abs(place - other) >= gap for other in kept)
        kept += [place] if is_free else []
        labels.append(is_free or is_kept)
    return labels


@dataclass(frozen=True)
class MapRow:
    """The pruned components of one kind of module, by layer."""

    kind: str
    """The part of a module's name after its layer number, such as `mlp.down_proj`."""
    counts: list[int]
    total: int


@dataclass(frozen=True)
class LayerMap:
    """Number of components pruned in each layer, including layers without any."""

    layers: list[tuple[int, int]]
    rows: list[MapRow]
    """One row per kind of module; the kind with the most pruned components comes first."""
    largest: int
    """The largest number of components of one kind pruned in one layer."""
    elsewhere: int
    """Number of components pruned in modules whose names have no layer number."""
    axis: Axis


def layer_of(module: str) -> int | None:
    """Return the layer number in a module's name, such as `model.layers.12.mlp.down_proj`."""
    return _place(module)[0]


def _place(module: str) -> tuple[int | None, str]:
    """Return a module's layer number and the part of its name after it."""
    found = re.search(r"(?:^|\.)(\d+)(?:\.|$)", module, re.ASCII)
    return (int(found[1]), module[found.end() :]) if found else (None, module)


def build_layer_map(patch: PatchSummary | None) -> LayerMap | None:
    """Return the pruned components counted by layer and kind of module; None if there are none."""
    if patch is None or not patch.counts:
        return None
    counts: Counter[tuple[int | None, str]] = Counter()
    for module, count in patch.counts.items():
        counts[_place(module)] += count
    depth = max((layer for layer, _ in counts if layer is not None), default=-1) + 1
    kinds = {kind for layer, kind in counts if layer is not None}
    rows = [_count_kind(counts, kind, depth) for kind in sorted(kinds)]
    rows.sort(key=lambda row: -row.total)
    totals = [sum(row.counts[layer] for row in rows) for layer in range(depth)]
    return LayerMap(
        layers=list(enumerate(totals)),
        rows=rows,
        largest=max([1, *(count for row in rows for count in row.counts)]),
        elsewhere=sum(count for (layer, _), count in counts.items() if layer is None),
        axis=build_axis([0, max([2, *totals])], intervals=3),
    )


def _count_kind(counts: Counter[tuple[int | None, str]], kind: str, depth: int) -> MapRow:
    by_layer = [counts[layer, kind] for layer in range(depth)]
    return MapRow(kind, by_layer, sum(by_layer))


@dataclass(frozen=True)
class PrunedModule:
    """The components pruned in one module."""

    name: str
    count: int
    indices: list[int]
    """Ascending; empty for single weights, which are only counted."""


def order_modules(patch: PatchSummary | None) -> list[PrunedModule]:
    """Return the modules with their pruned components, sorted by layer number."""
    if patch is None:
        return []
    numbered = ((layer_of(module), module) for module in patch.counts)
    order = sorted((-1 if layer is None else layer, module) for layer, module in numbered)
    return [
        PrunedModule(module, patch.counts[module], sorted(patch.modules.get(module, [])))
        for _, module in order
    ]
