"""Reading any number of component scores, one module and one bounded chunk at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch

TensorLoader = Callable[[], torch.Tensor]
Scores = Mapping[str, torch.Tensor] | Iterable[tuple[str, TensorLoader]]
"""Module → score tensor, or a re-iterable of (module, function that loads its score tensor).

The order matters: ties go to the earlier module, then to the smaller index.
"""

Chunks = Callable[[], Iterator[torch.Tensor]]
"""Starts a new pass over the same 1-D chunks of scores."""

CHUNK_SIZE = 1 << 20
"""Largest number of components in a chunk, and so the memory a pass needs beyond the module it
reads. Chosen by hand; never affects the result."""


class ScoreError(ValueError):
    """The scores cannot be ranked; the message says why and what to give instead."""


class NaNScoreError(ScoreError):
    """A score is NaN and has no rank; it is never replaced. Repair what computed it."""


def load_scores(scores: Scores) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (module, score tensor) one by one; each is loaded when its turn comes and not kept.

    Raises `ScoreError` for an iterator, which can be read only once, for a module named twice,
    and for scores that are not floating-point.
    """
    if isinstance(scores, Mapping):
        yield from ((name, _require_float(name, tensor)) for name, tensor in scores.items())
        return
    if isinstance(scores, Iterator):
        raise ScoreError("scores are read several times; give a re-iterable, not an iterator")
    seen: set[str] = set()
    for name, load in scores:
        if name in seen:
            raise ScoreError(f"the scores of {name} are given twice; name each module once")
        seen.add(name)
        yield name, _require_float(name, load())


def split_chunks(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the tensor's values in order, in chunks of `CHUNK_SIZE`; nothing if it is empty."""
    if tensor.numel():
        yield from tensor.detach().reshape(-1).split(CHUNK_SIZE)


def chunk_scores(scores: Scores) -> Chunks:
    """Return a function that starts a pass over all modules' scores in order."""
    return lambda: (chunk for _, tensor in load_scores(scores) for chunk in split_chunks(tensor))


def _require_float(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point():
        raise ScoreError(f"the scores of {name} are {tensor.dtype}; give floating-point ones")
    return tensor
