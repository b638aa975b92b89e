"""Where components lie in a loaded model: the parameter, and the entries that belong to each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from excise.names import Granularity
from workers.domain import Selection
from workers.families import find_weight

_NAMES = {
    Granularity.NEURON: "input feature",
    Granularity.HEAD: "head",
    Granularity.WEIGHT: "weight",
}


@dataclass(frozen=True, eq=False)
class Place:
    """The chosen components of one linear module, and where its weight holds them.

    `view[entries]` are their weights. `view` is a view of the module's weight with axes
    `(input feature, output feature)`, for fused experts `(expert, input feature, output
    feature)`, and for single weights it is the matrix as stored. `entries` has one index tensor
    for each indexed axis.
    """

    name: str
    module: nn.Module | None
    """The linear module; None for fused experts, which are a parameter without a module."""
    view: torch.Tensor
    entries: tuple[torch.Tensor, ...]
    inputs: torch.Tensor
    """`(entry,)` int64: the input feature of each entry."""
    outputs: torch.Tensor | None
    """`(entry,)` int64: the output feature of each entry; None if each has all output features."""
    features: int
    """Number of input features of the module, summed over experts."""
    output_size: int


def find_places(
    model: nn.Module, selection: Selection, head_dim: int | None = None
) -> tuple[Place, ...]:
    """Return the places of the selection's components, one for each module.

    Raises `ValueError` for a module that is absent or not linear, and for an index out of range.
    """
    return tuple(
        _find_place(model, selection.granularity, name, chosen, head_dim)
        for name, chosen in sorted(selection.indices.items())
        if len(chosen)
    )


def count_available(model: nn.Module, selection: Selection) -> dict[str, int]:
    """Return module → its number of components, chosen or not, for the selection's modules.

    Raises `ValueError` as `find_places` does.
    """
    sizes: dict[str, int] = {}
    for name in selection.indices:
        _, weight, transposed = find_weight(model, name)
        view = weight if transposed else weight.transpose(-1, -2)
        features = view.shape[:-1].numel()
        match selection.granularity:
            case Granularity.WEIGHT:
                sizes[name] = weight.numel()
            case Granularity.HEAD:
                sizes[name] = features // _derive_head_dim(model, features)
            case Granularity.NEURON:
                sizes[name] = features
    return sizes


def find_head_dim(config: Any, features: int) -> int:
    """Return the input features per head of an attention output projection with `features` inputs.

    `config` is the model's configuration; heads are its query heads. Raises `ValueError` if the
    number of heads does not divide `features`.
    """
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    heads = getattr(text_config, "num_attention_heads", None)
    if not isinstance(heads, int) or heads < 1 or features % heads:
        raise ValueError(f"{features} inputs are not {heads} heads of one size; give head_dim")
    return features // heads


def _derive_head_dim(model: nn.Module, features: int) -> int:
    return find_head_dim(getattr(model, "config", None), features)


def expand_heads(heads: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Return the input features of `heads`, `(head,)` → `(head * head_dim,)`."""
    return (heads[:, None] * head_dim + torch.arange(head_dim)).flatten()


def _find_place(
    model: nn.Module,
    granularity: Granularity,
    name: str,
    chosen: torch.Tensor,
    head_dim: int | None,
) -> Place:
    module, weight, transposed = find_weight(model, name)
    chosen = chosen.to(torch.int64)
    if granularity is Granularity.WEIGHT:
        _require_within(name, granularity, chosen, weight.numel())
        return _place_weights(name, module, weight, chosen, transposed=transposed)
    # Input features come first, so that one index into the view is one neuron.
    view = weight if transposed else weight.transpose(-1, -2)
    features = view.shape[:-1].numel()
    if granularity is Granularity.HEAD:
        size = head_dim or _derive_head_dim(model, features)
        _require_within(name, granularity, chosen, features // size)
        chosen = expand_heads(chosen, size)
    _require_within(name, granularity, chosen, features)
    entries = torch.unravel_index(chosen.to(weight.device), view.shape[:-1])
    return Place(name, module, view, tuple(entries), chosen, None, features, view.shape[-1])


def _place_weights(
    name: str,
    module: nn.Module | None,
    weight: torch.Tensor,
    chosen: torch.Tensor,
    *,
    transposed: bool,
) -> Place:
    entries = torch.unravel_index(chosen.to(weight.device), weight.shape)
    first, last = entries[-2].cpu(), entries[-1].cpu()
    inputs, outputs = (first, last) if transposed else (last, first)
    features, output_size = weight.shape[-2:] if transposed else weight.shape[:-3:-1]
    return Place(name, module, weight, tuple(entries), inputs, outputs, features, output_size)


def _require_within(name: str, granularity: Granularity, chosen: torch.Tensor, size: int) -> None:
    for index in (int(chosen.min()), int(chosen.max())):
        if not 0 <= index < size:
            raise ValueError(f"{name} has no {_NAMES[granularity]} {index}")
