"""The exact k-th largest of any number of scores, in linear time and constant memory.

A random sample gives a bracket around the value. One pass counts the scores above the bracket and
keeps those inside it; quickselect then finds the value among them. If the bracket misses the value
or holds too many scores (few distinct values, an unfavourable order), further passes narrow it by
a factor of 2¹⁶ each, using a histogram over integers that sort in the same order as the floats. The
number of passes is therefore bounded for any scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from workers.pruning.score_stream import Chunks, NaNScoreError, ScoreError

SMALL = 1 << 16
"""Up to this many scores are all kept, not sampled. This number and those below were chosen by
hand; they affect time and memory only, never the result."""

CAPACITY = 1 << 23
"""Largest number of scores kept from one bracket; a bracket with more is narrowed first."""

SAMPLE_STEP = 256
"""One of this many scores is sampled."""

SAMPLE_LIMIT = 1 << 20
"""When the sample grows beyond this many scores, every other one is dropped."""

DEVIATIONS = 6.0
"""Half the bracket's width, in standard deviations of the sampled rank."""

BIN_BITS = 16
"""Binary logarithm of the number of bins by which one pass narrows a bracket."""

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Survey:
    """Facts about the scores, gathered in a first pass."""

    size: int
    dtype: torch.dtype
    sample: torch.Tensor
    """Some of the scores, ascending."""


@dataclass(frozen=True)
class Cutoff:
    """End of a selection: it takes all scores beyond `value` and the first `ties` equal to it."""

    value: float
    ties: int
    smallest: bool
    """Whether small scores are selected instead of large ones."""


@dataclass(frozen=True)
class _Bracket:
    """A closed interval that contains the value sought."""

    low: float
    high: float
    above: int
    """Number of scores larger than `high`."""
    inside: int
    """Number of scores in the interval."""
    values: torch.Tensor | None
    """The scores in the interval; None if they are too many or were not collected."""


def survey_scores(chunks: Chunks) -> Survey:
    """Return the number, the dtype and a sample of the scores.

    Raises `NaNScoreError` if a score is NaN, `ScoreError` if the chunks' dtypes differ.
    """
    generator = torch.Generator().manual_seed(0)
    kept: list[torch.Tensor] = []
    size, sampled, step = 0, 0, SAMPLE_STEP
    dtypes: set[torch.dtype] = set()
    for chunk in chunks():
        dtypes.add(chunk.dtype)
        if bool(chunk.max().isnan()):
            raise NaNScoreError("a score is NaN, which has no rank; repair what computed it")
        places = torch.randint(len(chunk), (math.ceil(len(chunk) / step),), generator=generator)
        kept.append(chunk[places.to(chunk.device)].cpu())
        size, sampled = size + len(chunk), sampled + len(places)
        if sampled > SAMPLE_LIMIT:
            kept, step = [torch.cat(kept)[::2]], step * 2
            sampled = len(kept[0])
    if len(dtypes) > 1:
        found = ", ".join(sorted(str(dtype) for dtype in dtypes))
        raise ScoreError(f"scores of several dtypes ({found}); convert them to one")
    sample = torch.cat(kept).sort().values if kept else torch.empty(0)
    return Survey(size, sample.dtype, sample)


def find_cutoff(chunks: Chunks, survey: Survey, count: int, *, smallest: bool = False) -> Cutoff:
    """Return the cutoff that selects exactly the `count` largest (or smallest) scores.

    `count` must be in [1, size]. −0.0 equals 0.0; infinities are ordinary values.
    """
    rank = survey.size - count + 1 if smallest else count  # 1 is the largest score
    bracket = _bracket(chunks, survey, rank)
    while bracket.values is None and bracket.low < bracket.high:
        bracket = _narrow(chunks, survey.dtype, bracket, rank)
    value, above, equal = _finish(bracket, rank)
    beyond = survey.size - above - equal if smallest else above
    return Cutoff(value, count - beyond, smallest)


def _bracket(chunks: Chunks, survey: Survey, rank: int) -> _Bracket:
    """Return an interval that contains the score of rank `rank`, and its scores if few."""
    if survey.size <= SMALL:
        return _tally(chunks, -math.inf, math.inf)
    sampled = len(survey.sample)
    share = 1 - rank / survey.size
    width = DEVIATIONS * math.sqrt(sampled * share * (1 - share)) + DEVIATIONS
    first, last = math.floor(sampled * share - width), math.ceil(sampled * share + width)
    found = _tally(
        chunks,
        -math.inf if first < 0 else float(survey.sample[first]),
        math.inf if last >= sampled else float(survey.sample[last]),
    )
    if found.above < rank <= found.above + found.inside:
        return found
    return _Bracket(-math.inf, math.inf, 0, survey.size, None)


def _tally(chunks: Chunks, low: float, high: float) -> _Bracket:
    """Return the counts above and inside the interval, and the scores inside if they are few."""
    above = inside = 0
    kept: list[torch.Tensor] | None = []
    for chunk in chunks():
        larger = chunk > high
        within = (chunk >= low).logical_xor_(larger)
        above += int(torch.count_nonzero(larger))
        if kept is None or low == high:
            inside += int(torch.count_nonzero(within))
            continue
        kept.append(chunk[within].cpu())
        inside += len(kept[-1])
        if inside > CAPACITY:
            kept = None
    return _Bracket(low, high, above, inside, torch.cat(kept) if kept else None)


def _narrow(chunks: Chunks, dtype: torch.dtype, bracket: _Bracket, rank: int) -> _Bracket:
    """Return the histogram bin, within the bracket, that contains the score of rank `rank`."""
    first, last = _to_key(bracket.low, dtype), _to_key(bracket.high, dtype)
    shift = max(0, (last - first).bit_length() - BIN_BITS)
    base = first >> shift
    counts = torch.zeros((1 << BIN_BITS) + 1, dtype=torch.int64)
    for chunk in chunks():
        inside = chunk[(chunk >= bracket.low) & (chunk <= bracket.high)]
        bins = (_to_keys(inside).to(torch.int64) >> shift) - base
        counts += torch.bincount(bins, minlength=len(counts)).cpu()
    from_top = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_top, rank - bracket.above))
    low_key = (base + len(counts) - 1 - place) << shift
    low = _to_value(max(first, low_key), dtype)
    high = _to_value(min(last, low_key + (1 << shift) - 1), dtype)
    return _tally(chunks, low, high)


def _finish(bracket: _Bracket, rank: int) -> tuple[float, int, int]:
    """Return the score of rank `rank`, the number of larger scores and the number equal to it."""
    if bracket.values is None:
        return bracket.low, bracket.above, bracket.inside
    values = bracket.values
    position = len(values) - (rank - bracket.above) + 1
    value = torch.kthvalue(values, position).values
    above = bracket.above + int(torch.count_nonzero(values > value))
    return float(value), above, int(torch.count_nonzero(values == value))


def _to_keys(values: torch.Tensor) -> torch.Tensor:
    """Return integers that sort in the same order as the floats; −0.0 and 0.0 both become 0."""
    dtype = _INTEGERS[values.element_size()]
    bits = values.view(dtype)
    return torch.where(bits < 0, torch.iinfo(dtype).min - bits, bits)


def _to_key(value: float, dtype: torch.dtype) -> int:
    return int(_to_keys(torch.tensor([value], dtype=dtype)))


def _to_value(key: int, dtype: torch.dtype) -> float:
    integers = _INTEGERS[dtype.itemsize]
    bits = key if key >= 0 else torch.iinfo(integers).min - key
    return float(torch.tensor([bits], dtype=integers).view(dtype))
