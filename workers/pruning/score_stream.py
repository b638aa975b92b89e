"""Scores of any number of components, read one module at a time and in bounded chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch

TensorLoader = Callable[[], torch.Tensor]
Scores = Mapping[str, torch.Tensor] | Iterable[tuple[str, TensorLoader]]
"""Module → score tensor, or (module, loader of its score tensor) to be iterated several times.

The order is that of position: ties go to the earlier module, then to the smaller index.
"""

Chunks = Callable[[], Iterator[torch.Tensor]]
"""Starts one more pass over the same one-dimensional pieces."""

CHUNK_SIZE = 1 << 20
"""Components looked at together: what a pass needs beyond the module it reads."""


class ScoreError(ValueError):
    """The scores cannot be ranked; the message says which and what to give instead."""


class NaNScoreError(ScoreError):
    """A score is not a number: it has no rank. Repair what computed it; none is replaced."""


def load_scores(scores: Scores) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (module, score tensor), each loaded when its turn comes and not kept.

    Raises `ScoreError` on an iterator that can be read only once, a module named twice and
    scores that are not floating point.
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
    """Yield the tensor's values in order, `CHUNK_SIZE` at a time; nothing for an empty one."""
    if tensor.numel():
        yield from tensor.detach().reshape(-1).split(CHUNK_SIZE)


def chunk_scores(scores: Scores) -> Chunks:
    """Return passes over all modules' scores in order."""
    return lambda: (chunk for _, tensor in load_scores(scores) for chunk in split_chunks(tensor))


def _require_float(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point():
        raise ScoreError(f"the scores of {name} are {tensor.dtype}; give floating-point ones")
    return tensor
