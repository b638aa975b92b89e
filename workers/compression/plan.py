"""What a compression is asked to do, and what it did."""

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
"""To be shown wherever a compression's figures are."""

GRADIENT_ATTRIBUTORS = frozenset({Attributor.ATTNLRP, Attributor.GRADIENT_X_INPUT})
"""Attributors whose scores take a backward pass."""


@dataclass(frozen=True)
class RowShare:
    """Unstructured: the same share of every row is removed."""

    share: float
    """Removed weights of a row over its weights, in [0, 1)."""

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"the share to remove must be in [0, 1), not {self.share:g}")


@dataclass(frozen=True)
class NOfM:
    """Semi-structured: `removed` of every `group` consecutive inputs of a row (2:4, 4:8)."""

    removed: int
    group: int

    def __post_init__(self) -> None:
        if not 0 < self.removed < self.group:
            raise ValueError(f"cannot remove {self.removed} of every {self.group} weights")


Pattern = RowShare | NOfM


@dataclass(frozen=True)
class CompressionPlan:
    """How to compress. Raises `ValueError` on a combination that means nothing."""

    attributor: Attributor
    pattern: Pattern
    statistic: Statistic = Statistic.MEAN_ABSOLUTE
    """What is ranked, by magnitude. In the mean of |relevance| contributions of opposite sign do
    not cancel; those of the mean, the paper's, do, and with few samples what is left of them is
    mostly noise. Wanda knows no other than its own."""
    calibration: Calibration = Calibration.ONE_SHOT
    blocks_at_once: int = 1
    """Sequential relevance: blocks pruned before the rest is attributed again."""
    target: Target = Target.TOP_LOGIT
    """What relevance explains at every position."""
    seed: int = 0
    """Of the random scores."""
    batch_tokens: int = 1024

    @property
    def is_additive(self) -> bool:
        """Whether the scores are sums over samples, which may be computed in any parts.

        A sequential compression scores models that it has yet to make.
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
    """Weights removed from one module, and how many it has."""

    removed: int
    weights: int

    @property
    def achieved_sparsity(self) -> float:
        """Removed weights over all weights of the module."""
        return self.removed / self.weights


@dataclass(frozen=True)
class CompressionOutcome:
    """What was removed; the model itself was changed in place."""

    modules: Mapping[str, ModuleSparsity]
    """Module name → sparsity, in the order of the model."""

    @property
    def removed(self) -> int:
        """Weights removed from all modules."""
        return sum(module.removed for module in self.modules.values())

    @property
    def weights(self) -> int:
        """Weights of the compressed modules: no embeddings, no head, no norms, no biases."""
        return sum(module.weights for module in self.modules.values())

    @property
    def achieved_sparsity(self) -> float:
        """Removed weights over the weights of the compressed modules."""
        return self.removed / self.weights
