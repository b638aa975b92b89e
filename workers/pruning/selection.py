"""Selections of components: an exact share in a scope, N of every M, counts, random controls.

Infinite scores are allowed and are ordinary extreme values; a NaN is refused. Among equal scores
(−0.0 equals 0.0), the earlier module and then the smaller index is selected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from excise.names import Granularity, Scope
from workers.domain import Selection
from workers.pruning.cutoff import Cutoff, find_cutoff, survey_scores
from workers.pruning.score_stream import (
    CHUNK_SIZE,
    NaNScoreError,
    ScoreError,
    Scores,
    chunk_scores,
    load_scores,
    split_chunks,
)

RowAxis = Mapping[str, int] | int
"""The axis of output features in a weight: 0, or 1 if the weight is stored (in, out)."""


def count_share(size: int, share: float) -> int:
    """Return share · size, rounded to the nearest integer, half to even.

    Raises `ValueError` if `share` is not in [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share of {share} cannot be selected; give one from 0 to 1")
    return round(share * size)


def select_components(
    scores: Scores,
    granularity: Granularity,
    scope: Scope,
    share: float,
    *,
    smallest: bool = False,
    row_axis: RowAxis = 0,
) -> Selection:
    """Return the components of largest (or smallest) score: exactly `count_share` in each scope.

    `scores` may be larger than memory, because they are read module by module: once, or three to
    four times in the global scope (more often for awkward distributions, depending on the
    dtype's width). Scope `ROW` takes 2-D scores; `row_axis` is the axis that counts rows. Raises
    `NaNScoreError` for a NaN, `ScoreError` for scores that cannot be read or have no rows, and
    `ValueError` for a share outside [0, 1].
    """
    found = stream_selection(scores, scope, share, smallest=smallest, row_axis=row_axis)
    return Selection(granularity, {name: chosen for name, chosen in found if len(chosen)})


def stream_selection(
    scores: Scores,
    scope: Scope,
    share: float,
    *,
    smallest: bool = False,
    row_axis: RowAxis = 0,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (module, chosen indices) for every module, with one module in memory at a time.

    Like `select_components`, for a selection that is itself too large to hold in memory.
    """
    count_share(0, share)
    if scope is Scope.GLOBAL:
        chunks = chunk_scores(scores)
        survey = survey_scores(chunks)
        count = count_share(survey.size, share)
        cutoff = find_cutoff(chunks, survey, count, smallest=smallest) if count else None
        yield from ((name, chosen) for name, _, chosen in take_beyond(scores, cutoff))
        return
    for name, tensor in load_scores(scores):
        if scope is Scope.LAYER:
            yield name, _select_in_layer(tensor, share, smallest=smallest)
        else:
            yield name, _select_in_rows(name, tensor, share, row_axis, smallest=smallest)


def take_beyond(
    scores: Scores, cutoff: Cutoff | None
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Yield (module, its scores, ascending indices that `cutoff` selects); None selects none."""
    ties = 0 if cutoff is None else cutoff.ties
    for name, tensor in load_scores(scores):
        found, start = [torch.empty(0, dtype=torch.int64)], 0
        for chunk in split_chunks(tensor) if cutoff else ():
            assert cutoff is not None
            mask = chunk < cutoff.value if cutoff.smallest else chunk > cutoff.value
            if ties:
                equal = (chunk == cutoff.value).nonzero().flatten()[:ties]
                mask[equal] = True
                ties -= len(equal)
            found.append(mask.nonzero().flatten().cpu() + start)
            start += len(chunk)
        yield name, tensor, torch.cat(found)


def select_n_of_m(scores: Scores, n: int, m: int, *, row_axis: RowAxis = 0) -> Selection:
    """Return the `n` weights of smallest score among every `m` consecutive inputs (N:M sparsity).

    2:4 sparsity is n = 2, m = 4. Raises `ScoreError` if the number of inputs is not a multiple
    of `m`, `NaNScoreError` for a NaN, `ValueError` unless 0 ≤ n ≤ m.
    """
    if not 0 <= n <= m:
        raise ValueError(f"{n} of every {m} cannot be selected; give 0 ≤ n ≤ m")
    chosen: dict[str, torch.Tensor] = {}
    for name, tensor in load_scores(scores):
        axis = _find_axis(name, tensor, row_axis)
        rows = tensor if axis == 0 else tensor.t()
        if rows.shape[1] % m:
            raise ScoreError(
                f"{name} has {rows.shape[1]} inputs, not a multiple of {m}; leave it out"
            )
        groups = rows.reshape(rows.shape[0], -1, m)
        _refuse_nan(groups)
        mask = (_rank_in_groups(groups) < n).reshape(rows.shape)
        chosen[name] = _to_indices(mask if axis == 0 else mask.t())
    chosen = {name: found for name, found in chosen.items() if len(found)}
    return Selection(Granularity.WEIGHT, chosen)


def count_by_module(selection: Selection) -> dict[str, int]:
    """Return module → number of chosen components."""
    return {name: len(chosen) for name, chosen in selection.indices.items()}


def list_indices(selection: Selection) -> dict[str, list[int]]:
    """Return module → chosen indices as Python integers, modules sorted by name."""
    return {name: selection.indices[name].tolist() for name in sorted(selection.indices)}


def draw_random_selection(selection: Selection, sizes: Mapping[str, int], seed: int) -> Selection:
    """Return a random control: as many other components of each module as the selection has.

    The counts per module match, so that selection and control do not differ in depth. `sizes`
    is module → number of components. Time and memory grow with the number chosen, not with
    `sizes`. Raises `ValueError` if a module has too few components left.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[str, torch.Tensor] = {}
    for name in sorted(selection.indices):
        chosen = selection.indices[name]
        free = sizes[name] - len(chosen)
        if free < len(chosen):
            raise ValueError(
                f"{name} has only {free} other {selection.granularity}s for a random control"
            )
        places = _draw_distinct(free, len(chosen), generator)
        drawn[name] = _skip_taken(places, chosen)
    return Selection(selection.granularity, drawn)


def _draw_distinct(size: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Return `count` distinct integers below `size`, ascending; all such sets equally likely."""
    if 4 * count >= size:
        return torch.randperm(size, generator=generator)[:count].sort().values
    drawn = torch.empty(0, dtype=torch.int64)
    while len(drawn) < count:
        more = torch.randint(size, (count,), generator=generator)
        drawn = _drop_repeats(torch.cat([drawn, more]))[:count]
    return drawn.sort().values


def _drop_repeats(values: torch.Tensor) -> torch.Tensor:
    """Return the values in order, each only the first time it occurs."""
    order = values.sort(stable=True)
    first = torch.ones(len(values), dtype=torch.bool)
    first[1:] = order.values[1:] != order.values[:-1]
    return values[order.indices[first].sort().values]


def _skip_taken(places: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
    """Return the free indices, those not in `taken`, at positions `places`. Both ascend."""
    # taken[j] − j free indices lie before taken[j].
    before = taken - torch.arange(len(taken))
    return places + torch.searchsorted(before, places, right=True)


def _select_in_layer(tensor: torch.Tensor, share: float, *, smallest: bool) -> torch.Tensor:
    scores = {"": tensor}
    chunks = chunk_scores(scores)
    survey = survey_scores(chunks)
    count = count_share(survey.size, share)
    cutoff = find_cutoff(chunks, survey, count, smallest=smallest) if count else None
    ((_, _, chosen),) = take_beyond(scores, cutoff)
    return chosen


def _select_in_rows(
    name: str, tensor: torch.Tensor, share: float, row_axis: RowAxis, *, smallest: bool
) -> torch.Tensor:
    axis = _find_axis(name, tensor, row_axis)
    rows = tensor.detach() if axis == 0 else tensor.detach().t()
    mask = torch.zeros(tensor.shape, dtype=torch.bool, device=tensor.device)
    row_mask = mask if axis == 0 else mask.t()
    count = count_share(rows.shape[1], share)
    block = max(1, CHUNK_SIZE // max(1, rows.shape[1]))
    for start in range(0, rows.shape[0], block):
        part = rows[start : start + block]
        _refuse_nan(part)
        if count:
            row_mask[start : start + block] = _mask_rows(part, count, smallest=smallest)
    return _to_indices(mask)


def _mask_rows(rows: torch.Tensor, count: int, *, smallest: bool) -> torch.Tensor:
    """Return a mask of each row's `count` largest (or smallest) scores, ties by position."""
    position = count if smallest else rows.shape[1] - count + 1
    value = torch.kthvalue(rows, position, dim=1, keepdim=True).values
    beyond = rows < value if smallest else rows > value
    equal = rows == value
    ties = count - beyond.sum(1, keepdim=True)
    return beyond | (equal & (equal.cumsum(1) <= ties))


def _rank_in_groups(groups: torch.Tensor) -> torch.Tensor:
    """Return the rank of each score in its group, `(row, group, m)`; 0 is smallest, ties stable."""
    rank = torch.zeros(groups.shape, dtype=torch.uint8, device=groups.device)
    for later in range(1, groups.shape[-1]):
        for earlier in range(later):
            first = groups[..., earlier] <= groups[..., later]
            rank[..., later] += first
            rank[..., earlier] += ~first
    return rank


def _find_axis(name: str, tensor: torch.Tensor, row_axis: RowAxis) -> int:
    axis = row_axis if isinstance(row_axis, int) else row_axis[name]
    if tensor.ndim != 2 or axis not in (0, 1):
        raise ScoreError(
            f"the scores of {name} have shape {tuple(tensor.shape)}, rows on axis {axis}; "
            "give 2-D scores with rows on axis 0 or 1"
        )
    return axis


def _refuse_nan(tensor: torch.Tensor) -> None:
    if tensor.numel() and bool(tensor.max().isnan()):
        raise NaNScoreError("a score is NaN, which has no rank; repair what computed it")


def _to_indices(mask: torch.Tensor) -> torch.Tensor:
    return mask.reshape(-1).nonzero().flatten().cpu()
