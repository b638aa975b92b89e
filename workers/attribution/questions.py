"""Several questions about one batch, answered in turn, each with its own sums."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from collections.abc import Set as AbstractSet

import torch

from excise.names import Statistic
from workers.attribution.accumulation import Accumulator, CountedBatch
from workers.attribution.observation import Site


class Questions:
    """The sums of several questions; observers add to those of the current `turn`."""

    def __init__(self, sums: Sequence[Accumulator]) -> None:
        self._sums = sums
        self.turn = 0
        """Number of the question whose gradient is being passed backwards."""

    @property
    def folded(self) -> AbstractSet[Hashable]:
        """The sums that the current batch has updated, each with its question's number."""
        return {(number, key) for number, own in enumerate(self._sums) for key in own.folded}

    def begin(self, skipped: AbstractSet[Hashable]) -> None:
        """Start a batch, or part of one that has already been added to the `skipped` sums."""
        for number, own in enumerate(self._sums):
            own.begin(
                {item[1] for item in skipped if isinstance(item, tuple) and item[0] == number}
            )

    def end(self, batch: CountedBatch) -> None:
        """Count the finished batch for every question. Raises `NonFiniteRelevanceError`."""
        for own in self._sums:
            own.end(batch)

    def missing(
        self, site: Site, width: int | None = None
    ) -> Iterator[tuple[Statistic, torch.Tensor]]:
        """Yield each running sum of the question that the batch has not updated yet."""
        return self._sums[self.turn].missing(site, width)

    def witness(self, site: Site, value: torch.Tensor) -> None:
        """Keep a scalar that is finite only if all of the batch's relevance at the site is."""
        self._sums[self.turn].witness(site, value)
