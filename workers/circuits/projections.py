"""The modules in which circuits act; their inputs are read and replaced by instance hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from excise.names import Granularity
from workers.families import (
    Family,
    UnsupportedGranularityError,
    count_features,
    is_linear,
    is_transposed,
)
from workers.models.hooks import InputHook, hooked
from workers.models.loaded import LoadedModel

_ORDER = (Granularity.NEURON, Granularity.HEAD, Granularity.WEIGHT)

Replace = Callable[[str, torch.Tensor], torch.Tensor]
"""Takes a module's name and its input `(row, token, feature)`; returns the input to use instead."""


@dataclass(frozen=True)
class Projection:
    """One linear module and its components: slices of its input, or single weights."""

    module: nn.Module
    granularity: Granularity
    components: int
    width: int
    """Input features per component: 1 for a neuron, the head's dimension for a head."""

    @property
    def row_axis(self) -> int:
        """The axis of output features in the stored weight."""
        return 1 if is_transposed(self.module) else 0


def find_projections(
    loaded: LoadedModel, granularities: Sequence[Granularity]
) -> dict[str, Projection]:
    """Return module name → projection: first MLP outputs (neurons), then attention outputs (heads).

    For weights, every linear module of the decoder layers. Raises `ValueError` for no
    granularity and for weights together with nodes, `UnsupportedGranularityError` where the
    family has no such components or keeps its neurons and most weights in experts.
    """
    if not granularities or (Granularity.WEIGHT in granularities and len(granularities) > 1):
        raise ValueError("a circuit is made of neurons, heads or both, or of weights alone")
    projections: dict[str, Projection] = {}
    for granularity in _ORDER:
        if granularity in granularities:
            counts = loaded.count_components(granularity)
            for name, module in loaded.find_components(granularity).items():
                projections[name] = _build_projection(
                    module, granularity, counts[name], loaded.family
                )
    return projections


def has_weights(projections: Mapping[str, Projection]) -> bool:
    """Return whether the components are single weights (either all of them are or none)."""
    return any(projection.granularity is Granularity.WEIGHT for projection in projections.values())


def _build_projection(
    module: nn.Module, granularity: Granularity, count: int, family: Family
) -> Projection:
    if not is_linear(module):
        raise UnsupportedGranularityError(
            f"{granularity}s of {family.name} lie in experts, and a circuit is made of linear "
            "modules, each of which sees every token; choose heads"
        )
    width = count_features(module) // count if granularity is Granularity.HEAD else 1
    return Projection(module, granularity, count, width)


def sum_by_component(values: torch.Tensor, width: int) -> torch.Tensor:
    """Return values `(…, feature)` summed over the features of each component, `(…, component)`."""
    return values if width == 1 else values.unflatten(-1, (-1, width)).sum(dim=-1)


def spread_to_features(values: torch.Tensor, width: int) -> torch.Tensor:
    """Return values `(component,)`, each repeated for the component's features, `(feature,)`."""
    return values if width == 1 else values.repeat_interleave(width, dim=-1)


@contextmanager
def replaced_inputs(projections: Mapping[str, Projection], replace: Replace) -> Iterator[None]:
    """Within the context, the module of each projection gets the input that `replace` returns."""

    def hook_for(
        name: str,
    ) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:  # noqa: ARG001
            return (replace(name, args[0]), *args[1:])

        return hook

    with hooked(
        InputHook(projection.module, hook_for(name)) for name, projection in projections.items()
    ):
        yield


@torch.no_grad()
def read_inputs(
    loaded: LoadedModel, projections: Mapping[str, Projection], token_ids: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return module → its input when the model reads `token_ids`, in the shape that it gets.

    That is `(row, token, feature)`, and for the MLPs of OPT `(row · token, feature)`.
    """
    read: dict[str, torch.Tensor] = {}

    def keep(name: str, values: torch.Tensor) -> torch.Tensor:
        read[name] = values.detach()
        return values

    with replaced_inputs(projections, keep):
        loaded.run(token_ids)
    return read
