"""What a circuit is looked for by, and what is found: frozen values."""

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
    """How a circuit is looked for."""

    attributor: Attributor
    granularities: tuple[Granularity, ...] = (Granularity.NEURON,)
    """Neurons, heads, both at once (a node circuit), or weights alone."""
    contrast: CircuitContrast = CircuitContrast.CORRUPTED
    order: CircuitOrder = CircuitOrder.SIGNED
    """Signed gives the smaller circuits, but under zero ablation; there take absolute."""
    scope: Scope | None = None
    """None: global, but for Wanda, whose scores compare weights of a row and neurons of a layer.

    (A layer has too few heads to keep the same share of each.)
    """
    ablation: CircuitAblation = CircuitAblation.COUNTERFACTUAL
    """Weights can be ablated by zero only."""
    shares: tuple[float, ...] = MIB_SHARES
    """Circuit sizes as shares of all components, ascending; the last is the whole model, 1."""
    threshold: float = 0.9
    """Share of the whole model's metric that the chosen circuit must keep."""
    refinements: int = 5
    """Halvings between the chosen size and the next smaller one, to come closer to it."""
    seed: int = 0
    batch_tokens: int = 1024


@dataclass(frozen=True)
class CurvePoint:
    """One circuit size on the held-out rows."""

    share: float
    """Kept components over all."""
    kept: int
    metric: float
    """Mean over rows."""
    faithfulness: float
    retention: float
    """Metric over the whole model's metric."""
    accuracy: float
    """Share of rows with a positive metric: the answer beats the wrong one."""


@dataclass(frozen=True)
class LayerSummary:
    """One module of the heatmap."""

    module: str
    granularity: Granularity
    relevance: float
    """Sum of the signed scores."""
    absolute_relevance: float
    components: int
    kept: int
    """Components in the chosen circuit."""
    heads: tuple[float, ...] = ()
    """Signed score of each head; empty for other granularities."""


@dataclass(frozen=True)
class CircuitOutcome:
    """A task's circuit by one attributor, and how faithful circuits of every size are."""

    settings: CircuitSettings
    task: str
    whole_metric: float
    """m(N): the model as it is, held-out rows."""
    empty_metric: float
    """m(∅): every component ablated."""
    corrupted_metric: float
    """The model as it is on the corrupted prompts."""
    curve: tuple[CurvePoint, ...]
    chosen: CurvePoint
    """The smallest measured size from which on every larger one keeps the threshold."""
    outside: Mapping[Granularity, Selection]
    """Everything not in the chosen circuit: a patch that removes it keeps only the circuit."""
    heatmap: tuple[LayerSummary, ...]
    scores: Mapping[str, torch.Tensor] = field(repr=False)

    @property
    def components(self) -> int:
        """All components of the granularities, in the circuit or not."""
        return sum(layer.components for layer in self.heatmap)

    @property
    def cpr(self) -> float:
        """MIB's area under the faithfulness curve, larger is better."""
        return compute_cpr(self.settings.shares, [point.faithfulness for point in self.curve])

    @property
    def cmd(self) -> float:
        """MIB's area between the faithfulness curve and 1, smaller is better."""
        return compute_cmd(self.settings.shares, [point.faithfulness for point in self.curve])
