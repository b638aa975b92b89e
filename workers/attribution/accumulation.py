"""Running sums of relevance per component, in float32, each on its module's device."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Protocol

import torch

from excise.names import Statistic
from workers.attribution.observation import Site
from workers.attribution.sums import Combination, RelevanceSums


class NonFiniteRelevanceError(ArithmeticError):
    """Relevance is NaN or infinite; use float32, or inspect the samples named."""


class CountedBatch(Protocol):
    """A batch whose tokens are counted when it is finished."""

    @property
    def sample_indices(self) -> tuple[int, ...]:
        """Position of each sample among all."""

    @property
    def is_token(self) -> torch.Tensor:
        """True at real tokens, `(sample, token)`."""


class Accumulator:
    """Sums per module and statistic, and a record of those that the current batch has updated.

    A batch that runs out of memory halfway has updated some of the sums. It is repeated in halves,
    which skip these sums, so that every token counts exactly once.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        devices: Mapping[str, torch.device],
        statistics: frozenset[Statistic],
    ) -> None:
        self.totals = {
            statistic: {
                name: torch.zeros(shape, device=devices[name]) for name, shape in shapes.items()
            }
            for statistic in Statistic
            if statistic in statistics
        }
        self.tokens = 0
        self.samples = 0
        self.folded: set[Hashable] = set()
        self._skipped: AbstractSet[Hashable] = frozenset()
        self._witnesses: list[tuple[str, torch.Tensor]] = []

    def list_keys(self) -> list[Hashable]:
        """Return all keys that `folded` can contain: one for every sum of linear modules."""
        return [(Site(name), statistic) for statistic, own in self.totals.items() for name in own]

    def begin(self, skipped: AbstractSet[Hashable]) -> None:
        """Start a batch, or part of one that has already been added to the `skipped` sums."""
        self.folded = set()
        self._skipped = skipped
        self._witnesses = []

    def missing(
        self, site: Site, width: int | None = None
    ) -> Iterator[tuple[Statistic, torch.Tensor]]:
        """Yield each running sum this batch has not updated yet.

        For an expert its slice, which is `width` wide, or without a width the sum of all of them.
        A sum is recorded as updated when the caller asks for the next one.
        """
        for statistic, totals in self.totals.items():
            key = (site, statistic)
            if key in self._skipped:
                continue
            total = totals[site.module]
            if site.expert is not None and width is not None:
                total = total.narrow(0, site.expert * width, width)
            yield statistic, total
            self.folded.add(key)

    def witness(self, site: Site, value: torch.Tensor) -> None:
        """Keep a scalar `()` that is finite only if all of the batch's relevance at the site is."""
        self._witnesses.append((site.module, value))

    def end(self, batch: CountedBatch) -> None:
        """Count the tokens of a finished batch.

        Raises `NonFiniteRelevanceError`, naming module and samples.
        """
        for name, value in self._witnesses:
            if not bool(torch.isfinite(value)):
                raise NonFiniteRelevanceError(
                    f"non-finite relevance at {name} in samples {list(batch.sample_indices)}; "
                    "use float32, or leave the samples out"
                )
        self.tokens += int(batch.is_token.sum())
        self.samples += len(batch.sample_indices)

    def result(self, combination: Combination = Combination.TOKEN_MEAN) -> RelevanceSums:
        """Return the sums themselves, without copying them.

        Raises `NonFiniteRelevanceError` if a sum of finite values overflowed.
        """
        for totals in self.totals.values():
            for name, value in totals.items():
                if not bool(torch.isfinite(value.sum())):
                    raise NonFiniteRelevanceError(
                        f"the sum of relevance at {name} overflowed; use fewer samples"
                    )
        return RelevanceSums(
            self.totals.get(Statistic.MEAN, {}),
            self.totals.get(Statistic.MEAN_ABSOLUTE, {}),
            self.totals.get(Statistic.MEAN_SQUARE, {}),
            self.tokens,
            self.samples,
            combination,
        )
