"""A second measurement, on more items, of abilities whose loss is in doubt.

With sixty items, the share right is known only to about five points, which is also the limit. So a
slice that seems to be lost is measured again on five times as many items, unless its loss is
certain, or the certain loss of another slice already decides the verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from excise.reports.abilities import AbilityChange
from workers.abilities.catalogue import ProbeSource
from workers.abilities.encoding import EncodedProbe
from workers.abilities.state import Abilities, SliceFigures
from workers.measuring.state import ModelState

TIMES_THE_ITEMS = 5
"""The second measurement has this many times the items of the first, which it includes. Chosen by
hand."""

MOST_SLICES = 6
"""Largest number of slices measured again; if more seem to be lost, it cannot be chance. Chosen by
hand."""


def draw_more(
    source: ProbeSource | None, changes: Sequence[AbilityChange]
) -> dict[str, tuple[EncodedProbe, ...]]:
    """Return slice → additional probes for the second measurement; empty if none is needed."""
    names = find_doubtful(changes)
    if source is None or not names:
        return {}
    return source.draw_more(names, TIMES_THE_ITEMS)


def find_doubtful(changes: Sequence[AbilityChange]) -> list[str]:
    """Return the slices to measure again: those that seem lost, if for each it may be chance."""
    lost = [change for change in changes if not change.within]
    if len(lost) > MOST_SLICES or not all(map(_may_be_chance, lost)):
        return []
    return [change.name for change in lost]


def _may_be_chance(change: AbilityChange) -> bool:
    """Return whether the 95 % intervals of both figures reach to within their limits."""
    nats, fall = change.max_nats_rise, change.max_accuracy_fall
    return (nats is None or change.nats_interval[0] <= nats) and (
        fall is None or -change.accuracy_interval[1] <= fall
    )


def add_figures(state: ModelState, more: Mapping[str, SliceFigures]) -> ModelState:
    """Return the state with the figures of the second measurement appended to the first."""
    found = state.abilities
    if not more or not isinstance(found, Abilities):
        return state
    slices = {
        name: figures.then(more[name]) if name in more else figures
        for name, figures in found.slices.items()
    }
    return state.model_copy(update={"abilities": Abilities(slices=slices)})
