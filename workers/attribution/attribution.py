"""The settings of one attribution, and of the passes of samples through the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from excise.names import Attributor, Granularity, Statistic
from workers.attribution.memory import OnHalved, log_halved
from workers.attribution.sums import ALL_STATISTICS
from workers.attribution.targets import Target, TokenMass
from workers.domain import Selection
from workers.progress import Advance, ignore

BATCH_TOKENS = 1024
"""Padded tokens per batch on a GPU; attribution holds the activations of one batch in memory.
Chosen by hand."""

CPU_BATCH_TOKENS = 256
"""Padded tokens per batch on the CPU. Batches of 512 were not measurably faster, and with 1,024 the
activations of all layers of SmolLM2 take nearly twice as much memory as its weights
(benchmarks/RESULTS.md)."""


@dataclass(frozen=True)
class Attribution:
    """What to compute: the attributor, the granularity of components, and the target explained."""

    attributor: Attributor
    granularity: Granularity
    target: Target | TokenMass
    """The output that is explained; used by gradient attributors only."""
    statistics: frozenset[Statistic] | None = None
    """Statistics to sum over tokens. None means all three for neurons and heads, but only the mean
    for single weights, where each further one is as large as the model and costs a matrix product
    per batch."""
    seed: int = 0
    """Seed of random relevance and of sampled targets. A token's draw depends on the index of its
    sample among those of all shards, so that sharding does not change it."""
    places: Selection | None = None
    """For single weights, those to compute relevance of, in this order; None means all."""

    @property
    def kept_statistics(self) -> frozenset[Statistic]:
        """The statistics that are summed over tokens."""
        if self.statistics:
            return self.statistics
        is_weight = self.granularity is Granularity.WEIGHT
        return frozenset({Statistic.MEAN}) if is_weight else ALL_STATISTICS


def choose_batch_tokens(asked: int | None, device: torch.device) -> int:
    """Return the padded tokens per batch: `asked`, or the default for the device if it is None."""
    if asked is not None:
        return asked
    return CPU_BATCH_TOKENS if device.type == "cpu" else BATCH_TOKENS


@dataclass(frozen=True)
class Pass:
    """How samples are passed through the model: the size of batches, and callbacks."""

    batch_tokens: int | None = None
    """Padded tokens per batch; None means the default of `choose_batch_tokens`."""
    first_index: int = 0
    """Index of this shard's first sample among those of all shards."""
    advance: Advance = ignore
    """Called with the number of samples in each finished batch."""
    on_halved: OnHalved = log_halved
    """Called with the numbers of samples and padded tokens of a batch that ran out of memory."""


DEFAULT_PASS = Pass()
