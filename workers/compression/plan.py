"""The plan of a compression, and its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from excise.names import READ_NO_SAMPLES, Attributor, Calibration, Statistic
from workers.attribution.targets import Target

SPEED_NOTE = (
    "Zeros among the weights save no time and no memory by themselves: an unstructured sparse "
    "checkpoint is as large as before and is served at the same speed. Only 2:4 sparsity has "
    "hardware support, and only where the server uses it."
)
"""Note that must be shown with every figure of a compression."""

GRADIENT_ATTRIBUTORS = frozenset({Attributor.ATTNLRP, Attributor.GRADIENT_X_INPUT})
"""Attributors whose scores need a backward pass."""


@dataclass(frozen=True)
class RowShare:
    """Unstructured sparsity: the same share of every row is removed."""

    share: float
    """Share of each row's weights to remove, in [0, 1)."""

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"the share to remove must be in [0, 1), not {self.share:g}")


@dataclass(frozen=True)
class NOfM:
    """Semi-structured sparsity: of every `group` weights in a row, `removed` go (2:4, 4:8)."""

    removed: int
    group: int

    def __post_init__(self) -> None:
        if not 0 < self.removed < self.group:
            raise ValueError(f"cannot remove {self.removed} of every {self.group} weights")


Pattern = RowShare | NOfM


@dataclass(frozen=True)
class CompressionPlan:
    """How to compress. Raises `ValueError` for settings that contradict each other."""

    attributor: Attributor
    pattern: Pattern
    statistic: Statistic = Statistic.MEAN_ABSOLUTE
    """The statistic of relevance whose magnitude is ranked. In the mean, as in the paper,
    contributions of opposite sign cancel, and with few samples the rest is mostly noise; in the
    mean of |relevance| they do not cancel. Wanda ignores it and uses its own statistic."""
    calibration: Calibration = Calibration.ONE_SHOT
    blocks_at_once: int = 1
    """Blocks pruned before the rest is attributed again, in sequential calibration."""
    target: Target = Target.TOP_LOGIT
    """The output that relevance explains at every position."""
    seed: int = 0
    """Seed of the random scores."""
    batch_tokens: int = 1024

    @property
    def is_additive(self) -> bool:
        """Whether the scores are sums over samples, so that they can be computed in shards.

        A sequential compression cannot: its later scores are those of a model already pruned.
        """
        return self.attributor in GRADIENT_ATTRIBUTORS and self.calibration is Calibration.ONE_SHOT

    def __post_init__(self) -> None:
        if self.blocks_at_once < 1:
            raise ValueError(f"blocks_at_once must be at least 1, not {self.blocks_at_once}")
        if self.attributor is Attributor.CP_LRP:
            raise ValueError(
                "cp_lrp gives the weights of queries and keys no relevance, so their rows cannot "
                "be ranked; use attnlrp"
            )
        if self.calibration is Calibration.SEQUENTIAL and self.attributor in READ_NO_SAMPLES:
            raise ValueError(
                f"{self.attributor} reads no calibration samples, so no block's score depends "
                "on another's; use one_shot calibration"
            )


@dataclass(frozen=True)
class ModuleSparsity:
    """The number of weights removed from one module, and its number of weights."""

    removed: int
    weights: int

    @property
    def achieved_sparsity(self) -> float:
        """Share of the module's weights that were removed."""
        return self.removed / self.weights


@dataclass(frozen=True)
class CompressionOutcome:
    """The weights removed; the model itself was changed in place."""

    modules: Mapping[str, ModuleSparsity]
    """Module name → sparsity, in the order of the model."""

    @property
    def removed(self) -> int:
        """Number of weights removed, over all modules."""
        return sum(module.removed for module in self.modules.values())

    @property
    def weights(self) -> int:
        """Number of weights in the compressed modules: without embeddings, head, norms, biases."""
        return sum(module.weights for module in self.modules.values())

    @property
    def achieved_sparsity(self) -> float:
        """Share of the compressed modules' weights that were removed."""
        return self.removed / self.weights
