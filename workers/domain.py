"""The values that travel between the parts of the engine, frozen. Nothing here computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from excise.names import (
    Granularity,
)


@dataclass(frozen=True)
class Selection:
    """Components chosen for removal.

    `indices` goes from module name to an int64 tensor `(chosen,)` on the CPU, ascending and
    without repeats; modules without a chosen component are absent. What an index counts
    depends on `granularity`: input features of an MLP's output projection, query heads before
    an attention output projection, or entries `row * columns + column` of a weight matrix in
    its stored layout.
    """

    granularity: Granularity
    indices: Mapping[str, torch.Tensor]

    def __len__(self) -> int:
        return sum(len(chosen) for chosen in self.indices.values())

    def mark(self, chosen: Selection) -> torch.Tensor:
        """Return which of these components, in their order, are `chosen`: bool `(component,)`."""
        parts = [
            torch.isin(own, chosen.indices[name])
            if name in chosen.indices
            else torch.zeros(len(own), dtype=torch.bool)
            for name, own in self.indices.items()
        ]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.bool)


@dataclass(frozen=True)
class Shortlist:
    """The components that were kept, where all components are too many to store.

    The figures are those over all components.
    """

    components: Selection
    floor: float
    """The floor that is added to each component's cost: a share of the mean cost."""
    scales: tuple[float, ...]
    """For each of several behaviours the sum of the positive benefits of all components."""


@dataclass(frozen=True)
class Relevance:
    """Per-component relevance statistics over the tokens of a set of reference samples.

    Every mapping goes from module name to a float32 tensor on the CPU: `(feature,)` for
    neurons, `(head,)` for heads, the stored weight's two axes for weights. A statistic that
    was not computed is an empty mapping.
    """

    mean: Mapping[str, torch.Tensor]
    """Mean over tokens of the signed relevance (Eq. 1, per token instead of per sample)."""
    mean_absolute: Mapping[str, torch.Tensor]
    """Mean over tokens of |relevance|: the component's influence, of either sign."""
    tokens: int
    samples: int
    mean_square: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Mean over tokens of relevance²: like the magnitude, but outliers count more."""


@dataclass(frozen=True)
class GeneralCost:
    """The cost of removing each component for general text, to first and second order.

    Both mappings are module name → tensor, as in `Relevance`. They answer two different questions
    about the same text.
    """

    first_order: Mapping[str, torch.Tensor]
    """E[a · ∂log p(next)/∂a]: the rise of the negative log-likelihood to first order, nats per
    token; negative if the removal helps the text."""
    fisher: Mapping[str, torch.Tensor]
    """E[(a · ∂log p(y)/∂a)²] with y drawn from the model: the diagonal of the Fisher information.
    Half of it is the KL divergence to second order, nats per token. It is halved in float64
    (`pruning.damage.compute_divergence`), because float32 would lose bits of the smallest squares.
    """
    tokens: int
    """Number of tokens that the first order was averaged over."""
    samples: int


@dataclass(frozen=True)
class TokenSequence:
    """One tokenised sample: a prompt and, if there is one, the model's own response to it."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...] = ()
    is_explained: tuple[bool, ...] = ()
    """Whether the prediction of each response token is to be explained; empty means all."""
    contrast_ids: tuple[int, ...] = ()
    """For each response token, the one it is explained against (a wrong answer); may be empty."""

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Prompt and response, as the model reads them."""
        return self.prompt_ids + self.response_ids

    def explain_all(self) -> TokenSequence:
        """Return the same sample with the whole response to be explained."""
        return TokenSequence(self.prompt_ids, self.response_ids)

    @property
    def explained(self) -> int:
        """Number of response tokens to be explained."""
        return sum(self.is_explained) if self.is_explained else len(self.response_ids)
