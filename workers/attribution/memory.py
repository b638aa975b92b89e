"""Batches that do not fit in memory: halved and repeated, with every token counted once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from collections.abc import Set as AbstractSet
from typing import Generic, Protocol, Self, TypeVar

import torch

from workers.models.devices import release_unused_memory
from workers.models.memory import is_out_of_memory

logger = logging.getLogger(__name__)

OnHalved = Callable[[int, int], None]
"""Called with the numbers of samples and padded tokens of a batch that ran out of memory."""


class Halvable(Protocol):
    """A batch of samples that can be split into two."""

    @property
    def sample_indices(self) -> tuple[int, ...]:
        """Position of each sample among all."""

    @property
    def token_ids(self) -> torch.Tensor:
        """Padded tokens, `(sample, token)`."""

    def halves(self) -> tuple[Self, Self]:
        """Return the first and the second half of the samples."""


Batch = TypeVar("Batch", bound=Halvable)
_Seen = TypeVar("_Seen", bound=Halvable, contravariant=True)


class Results(Protocol[_Seen]):
    """The results to which batches are added."""

    @property
    def folded(self) -> AbstractSet[Hashable]:
        """Keys of the results that the current batch has updated, to skip if it is repeated."""

    def begin(self, skipped: AbstractSet[Hashable]) -> None:
        """Start a batch, or part of one that has already been added to `skipped`."""

    def end(self, batch: _Seen) -> None:
        """Finish a batch."""


class Overwritten:
    """Results that a repeated batch simply overwrites, so that nothing must be skipped."""

    folded: AbstractSet[Hashable] = frozenset()

    def begin(self, skipped: AbstractSet[Hashable]) -> None:
        """Start a batch; nothing to do."""

    def end(self, batch: Halvable) -> None:
        """Finish a batch; nothing to do."""


class SampleTooLargeError(MemoryError):
    """A single sample does not fit in memory; shorten it or use a larger device."""


def log_halved(samples: int, tokens: int) -> None:
    """Log a warning that a batch is halved."""
    logger.warning(
        "out of memory on a batch of %d samples, %d tokens: continuing with halves", samples, tokens
    )


class HalvingRunner(Generic[Batch]):
    """Runs `step` on batches; once one does not fit, on smaller batches from then on."""

    def __init__(
        self, step: Callable[[Batch], None], results: Results[Batch], on_halved: OnHalved
    ) -> None:
        self._step = step
        self._results = results
        self._on_halved = on_halved
        self._largest: int | None = None

    def run(self, batch: Batch, skipped: frozenset[Hashable] = frozenset()) -> None:
        """Run the batch, in parts if it does not fit.

        Raises `SampleTooLargeError` if a single sample does not fit.
        """
        samples, tokens = len(batch.sample_indices), batch.token_ids.numel()
        if self._largest is None or tokens <= self._largest or samples == 1:
            self._results.begin(skipped)
            if self._fits(batch):
                self._results.end(batch)
                return
            if samples == 1:
                raise SampleTooLargeError(
                    f"sample {batch.sample_indices[0]} with {tokens} tokens does not fit into "
                    "memory; shorten it, or use a larger device"
                )
            self._largest = tokens // 2
            self._on_halved(samples, tokens)
            skipped |= self._results.folded
        for half in batch.halves():
            self.run(half, skipped)

    def _fits(self, batch: Batch) -> bool:
        """Run the step; return False if memory ran out, after freeing everything it held."""
        try:
            self._step(batch)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return True
        release_unused_memory()
        return False
