"""What is asked of one attribution, and how the samples are passed through the model for it."""

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
"""Padded tokens per batch; activations of one batch are what attribution holds in memory."""

CPU_BATCH_TOKENS = 256
"""The same on the CPU: 512 were no faster beyond the noise of a busy machine, and with 1,024 the
activations of all layers of SmolLM2 are nearly twice its weights (benchmarks/RESULTS.md)."""


@dataclass(frozen=True)
class Attribution:
    """What is computed: relevance by which attributor, of which components, for what."""

    attributor: Attributor
    granularity: Granularity
    target: Target | TokenMass
    """Matters to the gradient attributors only."""
    statistics: frozenset[Statistic] | None = None
    """What is summed over tokens; None means all three for neurons and heads, and the mean
    alone for weights: each further one is as large as the model and costs a matrix product a
    batch."""
    seed: int = 0
    """Drives what is drawn: random relevance, and the tokens of a sampled target. A token's draw
    depends on its sample's index among those of all shards, so sharding does not change it."""
    places: Selection | None = None
    """Of single weights, those that are asked about, answered in this order; None means all."""

    @property
    def kept_statistics(self) -> frozenset[Statistic]:
        """What is summed over tokens."""
        if self.statistics:
            return self.statistics
        is_weight = self.granularity is Granularity.WEIGHT
        return frozenset({Statistic.MEAN}) if is_weight else ALL_STATISTICS


def choose_batch_tokens(asked: int | None, device: torch.device) -> int:
    """Return how many padded tokens a batch has on a device, where nobody asked for a number."""
    if asked is not None:
        return asked
    return CPU_BATCH_TOKENS if device.type == "cpu" else BATCH_TOKENS


@dataclass(frozen=True)
class Pass:
    """How samples are passed through the model: in what batches, and who hears of it."""

    batch_tokens: int | None = None
    """Padded tokens per batch; None: as many as `choose_batch_tokens` says."""
    first_index: int = 0
    """Index of the first sample here among those of all shards."""
    advance: Advance = ignore
    """Called with the number of samples of every finished batch."""
    on_halved: OnHalved = log_halved
    """Called with samples and padded tokens of a batch that ran out of memory."""


DEFAULT_PASS = Pass()
