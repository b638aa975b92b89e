"""What a selection costs protected slices, measured on their tuning items, in doubt on more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from workers.abilities.encoding import EncodedProbe
from workers.abilities.state import SliceFigures
from workers.correction.protection import restore
from workers.correction.results import ProtectedSlice, SliceDamage
from workers.correction.slice_damage import compare_slice
from workers.measuring.probes import measure_probes
from workers.models.loaded import LoadedModel
from workers.progress import Advance, ignore

MOST_BY_CHANCE = 3.0
"""From this share of its limit on, the loss of a slice on its tuning items is no chance. Of 24
items the share right is known to about 2 points (one standard error), and the limit is 2.5: in two
runs of the demo's job `words` exceeded it, at 1.5 and 2 times, while its loss in nats had fallen
(benchmarks/RESULTS.md)."""

MOST_SLICES = 6
"""Largest number of slices measured again; if more seem to lose too much, they do. As in the
verdict's second look (`workers/gates/second_look.py`)."""


@dataclass(frozen=True)
class SliceReading:
    """Figures of the protected slices in the pruned model."""

    first: Mapping[str, SliceFigures]
    again: Mapping[str, SliceFigures]
    """Slice in doubt → figures of its further items."""


class SliceBench:
    """The tuning items of the protected slices, and the base model's figures on them."""

    def __init__(
        self,
        base: LoadedModel,
        protection: Sequence[ProtectedSlice],
        limits: Mapping[str, SliceDamage],
        advance: Advance,
    ) -> None:
        """`limits` maps each slice to what the search may let it lose.

        `advance` is called with the number of probes in every batch of the first items.
        """
        self._base = base
        self._limits = limits
        self._advance = advance
        self._first = {own.name: restore(own.tune) for own in protection}
        self._further = {own.name: restore(own.tune_more) for own in protection if own.tune_more}
        self._further_before: dict[str, SliceFigures] = {}

    @cached_property
    def before(self) -> Mapping[str, SliceFigures]:
        """The base model's figures on the first items; ask for them before anything is pruned."""
        return measure_probes(self._base, self._first, self._advance)

    def read(self) -> SliceReading:
        """Return the figures of the model as it is now, pruned."""
        first = measure_probes(self._base, self._first, self._advance)
        return SliceReading(first, self._measure_further(self._list_doubtful(first)))

    def compare(self, found: SliceReading) -> dict[str, SliceDamage]:
        """Return slice → its loss from the base model, which must be whole again."""
        unknown = [name for name in found.again if name not in self._further_before]
        self._further_before |= self._measure_further(unknown)
        return {name: self._compare(name, own, found) for name, own in found.first.items()}

    def _compare(self, name: str, first: SliceFigures, found: SliceReading) -> SliceDamage:
        probes, before = self._first[name], self.before[name]
        if name not in found.again:
            return compare_slice(probes, before, first)
        return compare_slice(
            [*probes, *self._further[name]],
            before.then(self._further_before[name]),
            first.then(found.again[name]),
        )

    def _list_doubtful(self, found: Mapping[str, SliceFigures]) -> list[str]:
        """Return the slices that seem to lose too much, perhaps all by chance, and have more."""
        uses = {
            name: compare_slice(self._first[name], self.before[name], own).compute_share(
                self._limits[name]
            )
            for name, own in found.items()
        }
        over = [name for name, use in uses.items() if use > 1]
        if len(over) > MOST_SLICES or any(uses[name] >= MOST_BY_CHANCE for name in over):
            return []
        return [name for name in over if name in self._further]

    def _measure_further(self, names: Sequence[str]) -> dict[str, SliceFigures]:
        """Measure these slices' further items, in a few seconds that no part of the work counts."""
        probes: dict[str, Sequence[EncodedProbe]] = {name: self._further[name] for name in names}
        return measure_probes(self._base, probes, ignore) if probes else {}
