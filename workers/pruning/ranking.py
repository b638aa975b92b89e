"""Ranking of components by score across the whole model: best first, ties broken by position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch

from excise.names import Granularity
from excise.plurals import count_noun
from workers.domain import Selection
from workers.pruning.score_stream import (
    NaNScoreError,
    ScoreError,
    Scores,
    load_scores,
    split_chunks,
)

SHOWN = 10
"""Number of the best components that a ranking's `repr` names."""

SPARE = 1 << 16
"""Once this many scores are held beyond twice the ranking's length, the surplus is dropped. Chosen
by hand; affects memory and time, never the ranking."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """Ranked components, best first; `len` gives their number."""

    granularity: Granularity
    modules: tuple[str, ...]
    owners: torch.Tensor
    """`(ranked,)` int64: the position, in `modules`, of each component's module."""
    indices: torch.Tensor
    """`(ranked,)` int64: the index of each component in its module."""

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Yield each component's module and its index in that module, best first."""
        for owner, index in zip(self.owners.tolist(), self.indices.tolist(), strict=True):
            yield self.modules[owner], index

    def __repr__(self) -> str:
        first = [f"{module}[{index}]" for module, index in islice(self, SHOWN)]
        more = [f"{len(self) - SHOWN} more"] if len(self) > SHOWN else []
        found = count_noun(len(self), self.granularity.value)
        return f"<Ranking of {found}: {', '.join([*first, *more])}>"

    def top(self, count: int) -> Selection:
        """Return the best `count` components, or all if there are fewer."""
        return self.slice(0, count)

    def slice(self, start: int, stop: int) -> Selection:
        """Return the components of ranks `start` (0 is the best) to `stop`, `stop` excluded."""
        owners, indices = self.owners[start:stop], self.indices[start:stop]
        chosen = {}
        for owner in owners.unique().tolist():
            chosen[self.modules[owner]] = indices[owners == owner].sort().values
        return Selection(self.granularity, chosen)

    def cap(self, most: int) -> Ranking:
        """Return the ranking limited to the best `most` components of each module."""
        seen: dict[int, int] = {}
        ranks = []
        for rank, owner in enumerate(self.owners.tolist()):
            seen[owner] = seen.get(owner, 0) + 1
            if seen[owner] <= most:
                ranks.append(rank)
        kept = torch.tensor(ranks, dtype=torch.int64)
        return Ranking(self.granularity, self.modules, self.owners[kept], self.indices[kept])


def rank_components(scores: Scores, granularity: Granularity, limit: int) -> Ranking:
    """Return the `limit` components with the largest scores in the whole model, best first.

    Components with a score ≤ 0 or an infinite score are never ranked, so the result may be
    shorter. Equal scores keep the order of modules and indices. Reads the scores once and holds
    only a few times `limit` of them. Raises `NaNScoreError` if a score is NaN, `ScoreError` if
    the modules' dtypes differ.
    """
    best = _Best(max(limit, 0))
    modules: list[str] = []
    for name, tensor in load_scores(scores):
        start = 0
        for chunk in split_chunks(tensor):
            best.offer(chunk, len(modules), start)
            start += len(chunk)
        modules.append(name)
    owners, indices = best.sort()
    return Ranking(granularity, tuple(modules), owners, indices)


class _Best:
    """The largest scores seen so far, and the threshold that a new score must exceed."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._threshold = 0.0
        self._dtype: torch.dtype | None = None
        self._held: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._count = 0

    def offer(self, chunk: torch.Tensor, owner: int, start: int) -> None:
        """Read a chunk of one module's scores, from index `start`. Chunks must come in order."""
        if self._dtype not in (None, chunk.dtype):
            raise ScoreError(
                f"scores of several dtypes ({self._dtype}, {chunk.dtype}); convert them to one"
            )
        self._dtype = chunk.dtype
        if bool(chunk.max().isnan()):
            raise NaNScoreError("a score is NaN, which has no rank; repair what computed it")
        if not self._limit:
            return
        places = (chunk > self._threshold).nonzero().flatten()
        values = chunk[places]
        finite = values < torch.inf
        values, places = values[finite].cpu(), places[finite].cpu()
        self._held.append((values, torch.full_like(places, owner), places + start))
        self._count += len(places)
        if self._count > 2 * self._limit + SPARE:
            self._drop_surplus()

    def sort(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return owners and indices, best first."""
        if not self._held:
            nothing = torch.empty(0, dtype=torch.int64)
            return nothing, nothing
        self._drop_surplus()
        ((values, owners, indices),) = self._held
        order = values.sort(descending=True, stable=True).indices
        return owners[order], indices[order]

    def _drop_surplus(self) -> None:
        """Keep the best `limit` scores; of those that tie for the last place, the earlier ones."""
        values, owners, indices = (torch.cat(parts) for parts in zip(*self._held, strict=True))
        if len(values) > self._limit:
            last = torch.kthvalue(values, len(values) - self._limit + 1).values
            kept = values > last
            equal = (values == last).nonzero().flatten()
            kept[equal[: self._limit - int(kept.sum())]] = True
            values, owners, indices = values[kept], owners[kept], indices[kept]
            self._threshold = float(last)
        self._held, self._count = [(values, owners, indices)], len(values)
