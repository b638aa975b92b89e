"""The damage of a selection to protected slices, measured on tuning items; on more if in doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from workers.abilities.encoding import EncodedProbe
from workers.abilities.state import SliceFigures
from workers.correction.budget import Budget
from workers.correction.protection import restore
from workers.correction.results import ProtectedSlice, SliceDamage
from workers.correction.slice_damage import compare_slice
from workers.gates.second_look import MOST_SLICES
from workers.measuring.probes import measure_probes
from workers.models.loaded import LoadedModel
from workers.progress import Advance, ignore

MOST_BY_CHANCE = 3.0
"""From this share of its limit on, the loss of a slice on its tuning items is no chance. Of 24
items the share right is known to about 2 points (one standard error), and the limit is 2.5: in two
runs of the demo's job `words` exceeded it, at 1.5 and 2 times, while its loss in nats had fallen
(benchmarks/RESULTS.md)."""


@dataclass(frozen=True)
class SliceReading:
    """What the pruned model shows of the protected slices."""

    losses: Mapping[str, SliceDamage]
    """Slice → its loss on its first items."""
    doubtful: Mapping[str, SliceFigures]
    """Slice in doubt → figures of all of its items."""


class SliceBench:
    """The tuning items of the protected slices, and the base model's figures on them."""

    def __init__(
        self,
        base: LoadedModel,
        protection: Sequence[ProtectedSlice],
        budget: Budget,
        advance: Advance,
    ) -> None:
        """`budget` says what the search may let each slice lose.

        `advance` is called with the number of probes in every batch of the first items.
        """
        self._base = base
        self._budget = budget
        self._advance = advance
        self._first = {own.name: restore(own.tune) for own in protection}
        self._further = {own.name: restore(own.tune_more) for own in protection if own.tune_more}
        self._further_before: dict[str, SliceFigures] = {}

    @cached_property
    def before(self) -> Mapping[str, SliceFigures]:
        """The base model's figures on the first items; ask for them before anything is pruned."""
        return measure_probes(self._base, self._first, self._advance)

    def read(self) -> SliceReading:
        """Return what the model shows as it is now, pruned."""
        first = measure_probes(self._base, self._first, self._advance)
        losses = {
            name: compare_slice(self._first[name], self.before[name], own)
            for name, own in first.items()
        }
        further = self._measure_further(self._list_doubtful(losses))
        return SliceReading(losses, {name: first[name].then(own) for name, own in further.items()})

    def compare(self, found: SliceReading) -> dict[str, SliceDamage]:
        """Return slice → its loss from the base model, which must be whole again."""
        unknown = [name for name in found.doubtful if name not in self._further_before]
        self._further_before |= self._measure_further(unknown)
        again = {
            name: compare_slice(
                [*self._first[name], *self._further[name]],
                self.before[name].then(self._further_before[name]),
                own,
            )
            for name, own in found.doubtful.items()
        }
        return {**found.losses, **again}

    def _list_doubtful(self, losses: Mapping[str, SliceDamage]) -> list[str]:
        """Return the slices that seem to lose too much, perhaps all by chance, and have more."""
        uses = self._budget.compute_slice_uses(losses)
        over = [name for name, use in uses.items() if use > 1]
        if len(over) > MOST_SLICES or any(uses[name] >= MOST_BY_CHANCE for name in over):
            return []
        return [name for name in over if name in self._further]

    def _measure_further(self, names: Sequence[str]) -> dict[str, SliceFigures]:
        """Measure these slices' further items, in a few seconds that no part of the work counts."""
        probes: dict[str, Sequence[EncodedProbe]] = {name: self._further[name] for name in names}
        return measure_probes(self._base, probes, ignore) if probes else {}
