"""More items for what a first look leaves in doubt.

At sixty items the share of right ones is known to some five points, and the limit is five. So a
slice that seems to be lost is looked at again on five times the items before anything is said of
it, unless the loss is beyond doubt, or another one is and decides the verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from excise.reports.abilities import AbilityChange
from workers.abilities.catalogue import ProbeSource
from workers.abilities.encoding import EncodedProbe
from workers.abilities.state import Abilities, SliceFigures
from workers.measuring.state import ModelState

TIMES_THE_ITEMS = 5
"""Items of the second look over those of the first, which are among them."""

MOST_SLICES = 6
"""Slices that are looked at again; where more seem to be lost, chance is no explanation."""


def draw_more(
    source: ProbeSource | None, changes: Sequence[AbilityChange]
) -> dict[str, tuple[EncodedProbe, ...]]:
    """Return the probes of a second look, slice → those beyond the first's; empty for none."""
    names = find_doubtful(changes)
    if source is None or not names:
        return {}
    return source.draw_more(names, TIMES_THE_ITEMS)


def find_doubtful(changes: Sequence[AbilityChange]) -> list[str]:
    """Return the slices to look at again: those that seem lost, if each may seem so by chance."""
    lost = [change for change in changes if not change.within]
    if len(lost) > MOST_SLICES or not all(map(_may_be_chance, lost)):
        return []
    return [change.name for change in lost]


def _may_be_chance(change: AbilityChange) -> bool:
    """Whether the 95 % intervals of both figures reach into their limits."""
    nats, fall = change.max_nats_rise, change.max_accuracy_fall
    return (nats is None or change.nats_interval[0] <= nats) and (
        fall is None or -change.accuracy_interval[1] <= fall
    )


def add_figures(state: ModelState, more: Mapping[str, SliceFigures]) -> ModelState:
    """Return the state with the figures of a second look after those of the first."""
    found = state.abilities
    if not more or not isinstance(found, Abilities):
        return state
    slices = {
        name: figures.then(more[name]) if name in more else figures
        for name, figures in found.slices.items()
    }
    return state.model_copy(update={"abilities": Abilities(slices=slices)})
