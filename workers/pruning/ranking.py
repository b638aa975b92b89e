"""Ranking of components by score over the whole model, best first, ties broken by position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from workers.domain import Granularity, Selection
from workers.pruning.cutoff import Cutoff, find_cutoff, survey_scores
from workers.pruning.score_stream import Scores, TensorLoader, chunk_scores, load_scores
from workers.pruning.selection import take_beyond


@dataclass(frozen=True, eq=False)
class Ranking:
    """Components in order, the best first; `len` is their number."""

    granularity: Granularity
    modules: tuple[str, ...]
    owners: torch.Tensor
    """`(ranked,)` int64: position in `modules` of each component's module."""
    indices: torch.Tensor
    """`(ranked,)` int64: each component's index in its module."""

    def __len__(self) -> int:
        return len(self.indices)

    def top(self, count: int) -> Selection:
        """Return the best `count` components, all when there are fewer."""
        return self.slice(0, count)

    def slice(self, start: int, stop: int) -> Selection:
        """Return the components of rank `start` (from 0) up to, not including, `stop`."""
        owners, indices = self.owners[start:stop], self.indices[start:stop]
        chosen = {}
        for owner in owners.unique().tolist():
            chosen[self.modules[owner]] = indices[owners == owner].sort().values
        return Selection(self.granularity, chosen)

    def cap(self, most: int) -> Ranking:
        """Return the ranking without those that are not among their module's best `most`."""
        seen: dict[int, int] = {}
        ranks = []
        for rank, owner in enumerate(self.owners.tolist()):
            seen[owner] = seen.get(owner, 0) + 1
            if seen[owner] <= most:
                ranks.append(rank)
        kept = torch.tensor(ranks, dtype=torch.int64)
        return Ranking(self.granularity, self.modules, self.owners[kept], self.indices[kept])


def rank_components(scores: Scores, granularity: Granularity, limit: int) -> Ranking:
    """Return the `limit` components of largest score (scope global), best first.

    Components with a score ≤ 0 or infinite are never ranked, so fewer may come back. Equal
    scores keep the order of the modules and of the indices. Only what is ranked is sorted and
    held. Raises `NaNScoreError` when a score is not a number.
    """
    useful = _UsefulScores(scores)
    chunks = chunk_scores(useful)
    survey = survey_scores(chunks)
    count = min(limit, survey.size)
    cutoff = find_cutoff(chunks, survey, count) if count > 0 else None
    if cutoff is not None and cutoff.value <= 0:
        cutoff = Cutoff(0.0, ties=0, smallest=False)
    modules: list[str] = []
    owners, indices, values = [torch.empty(0, dtype=torch.int64)], [], []
    for owner, (name, tensor, chosen) in enumerate(take_beyond(useful, cutoff)):
        modules.append(name)
        owners.append(torch.full_like(chosen, owner))
        indices.append(chosen)
        values.append(tensor.reshape(-1)[chosen.to(tensor.device)].cpu())
    if not modules:
        return Ranking(granularity, (), owners[0], owners[0])
    order = torch.cat(values).sort(descending=True, stable=True).indices
    return Ranking(granularity, tuple(modules), torch.cat(owners)[order], torch.cat(indices)[order])


class _UsefulScores:
    """The scores with 0, which is never ranked, in place of infinity; re-iterable as they are."""

    def __init__(self, scores: Scores) -> None:
        self._scores = scores

    def __iter__(self) -> Iterator[tuple[str, TensorLoader]]:
        for name, tensor in load_scores(self._scores):
            yield name, partial(_drop_infinity, tensor)


def _drop_infinity(scores: torch.Tensor) -> torch.Tensor:
    return torch.where(scores == torch.inf, torch.zeros_like(scores), scores)
