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
"""Once this many scores are held beyond `SURPLUS` times the ranking's length, the surplus is
dropped. Chosen by hand; affects memory and time, never the ranking."""

SURPLUS = 1.25
"""How many times the ranking's length is held, at most, beside `SPARE`; see there."""


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
    starts = [0]
    for name, tensor in load_scores(scores):
        place = starts[-1]
        for chunk in split_chunks(tensor):
            best.offer(chunk, place)
            place += len(chunk)
        modules.append(name)
        starts.append(place)
    places = best.sort()
    firsts = torch.tensor(starts)
    owners = torch.bucketize(places, firsts, right=True) - 1
    return Ranking(granularity, tuple(modules), owners, places - firsts[owners])


class _Best:
    """The largest scores seen so far, and the threshold that a new score must exceed.

    A place counts components from the first one of the first module.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._threshold = 0.0
        self._dtype: torch.dtype | None = None
        self._values: list[torch.Tensor] = []
        self._places: list[torch.Tensor] = []
        self._count = 0

    def offer(self, chunk: torch.Tensor, start: int) -> None:
        """Read the scores of components from place `start`. Chunks must come in order."""
        if self._dtype not in (None, chunk.dtype):
            raise ScoreError(
                f"scores of several dtypes ({self._dtype}, {chunk.dtype}); convert them to one"
            )
        self._dtype = chunk.dtype
        if bool(chunk.max().isnan()):
            raise NaNScoreError("a score is NaN, which has no rank; repair what computed it")
        if not self._limit:
            return
        found = ((chunk > self._threshold) & (chunk < torch.inf)).nonzero().flatten()
        self._values.append(chunk[found].cpu())
        self._places.append(found.cpu() + start)
        self._count += len(found)
        if self._count > SURPLUS * self._limit + SPARE:
            self._drop_surplus()

    def sort(self) -> torch.Tensor:
        """Return the places of the best scores, best first, `(place,)` int64."""
        if not self._places:
            return torch.empty(0, dtype=torch.int64)
        self._drop_surplus()
        return self._places[0][self._values[0].sort(descending=True, stable=True).indices]

    def _drop_surplus(self) -> None:
        """Keep the best `limit` scores; of those that tie for the last place, the earlier ones."""
        values = torch.cat(self._values)
        self._values = [values]
        if len(values) > self._limit:
            last = torch.kthvalue(values, len(values) - self._limit + 1).values
            kept = values > last
            equal = (values == last).nonzero().flatten()
            kept[equal[: self._limit - int(kept.sum())]] = True
            self._values = [values[kept]]
            self._places = [torch.cat(self._places)[kept]]
            self._threshold = float(last)
        else:
            self._places = [torch.cat(self._places)]
        self._count = len(self._places[0])
