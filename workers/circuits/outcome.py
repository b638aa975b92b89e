"""Settings and outcome of a circuit discovery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from excise.names import (
    Attributor,
    CircuitAblation,
    CircuitContrast,
    CircuitOrder,
    Granularity,
    Scope,
)
from workers.circuits.faithfulness import MIB_SHARES, compute_cmd, compute_cpr
from workers.domain import Selection


@dataclass(frozen=True)
class CircuitSettings:
    """Settings of a circuit discovery."""

    attributor: Attributor
    granularities: tuple[Granularity, ...] = (Granularity.NEURON,)
    """Neurons, heads, both at once (a node circuit), or weights alone."""
    contrast: CircuitContrast = CircuitContrast.CORRUPTED
    order: CircuitOrder = CircuitOrder.SIGNED
    """Signed order gives smaller circuits, except under zero ablation, where absolute does."""
    scope: Scope | None = None
    """None means global, except for Wanda, whose scores are comparable only among the weights of
    a row or the neurons of a layer.

    (A layer has too few heads to keep the same share of each.)
    """
    ablation: CircuitAblation = CircuitAblation.COUNTERFACTUAL
    """Single weights can only be ablated by zero."""
    shares: tuple[float, ...] = MIB_SHARES
    """Circuit sizes as shares of all components, ascending; the last is 1, the whole model."""
    threshold: float = 0.9
    """Share of the whole model's metric that the chosen circuit must keep. Chosen by hand."""
    refinements: int = 5
    """Bisection steps between the chosen size and the next smaller one. Chosen by hand."""
    seed: int = 0
    batch_tokens: int = 1024


@dataclass(frozen=True)
class CurvePoint:
    """One circuit size on the held-out rows."""

    share: float
    """Share of all components that the circuit keeps."""
    kept: int
    metric: float
    """The task metric, averaged over rows."""
    faithfulness: float
    retention: float
    """The metric divided by the whole model's metric."""
    accuracy: float
    """Share of rows with a positive metric: the right answer beats the wrong one."""


@dataclass(frozen=True)
class LayerSummary:
    """One module's row in the heatmap."""

    module: str
    granularity: Granularity
    relevance: float
    """Sum of the signed scores."""
    absolute_relevance: float
    components: int
    kept: int
    """Number of its components in the chosen circuit."""
    heads: tuple[float, ...] = ()
    """Signed score of each head; empty for other granularities."""


@dataclass(frozen=True)
class CircuitOutcome:
    """A task's circuit by one attributor, and the faithfulness of circuits of every size."""

    settings: CircuitSettings
    task: str
    whole_metric: float
    """m(N): the whole model's mean metric on the held-out rows."""
    empty_metric: float
    """m(∅): the same with every component ablated."""
    corrupted_metric: float
    """The whole model's mean metric on the corrupted prompts."""
    curve: tuple[CurvePoint, ...]
    chosen: CurvePoint
    """The smallest measured circuit that keeps the threshold, as do all larger ones."""
    outside: Mapping[Granularity, Selection]
    """All components outside the chosen circuit; a patch that removes them leaves the circuit."""
    heatmap: tuple[LayerSummary, ...]
    scores: Mapping[str, torch.Tensor] = field(repr=False)

    @property
    def components(self) -> int:
        """Number of all components of the granularities, in the circuit or not."""
        return sum(layer.components for layer in self.heatmap)

    @property
    def cpr(self) -> float:
        """MIB's CPR: the area under the faithfulness curve; larger is better."""
        return compute_cpr(self.settings.shares, [point.faithfulness for point in self.curve])

    @property
    def cmd(self) -> float:
        """MIB's CMD: the area between the faithfulness curve and 1; smaller is better."""
        return compute_cmd(self.settings.shares, [point.faithfulness for point in self.curve])
