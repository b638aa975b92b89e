"""The types in which a model family is described: paths, projections, norms, requirements."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from excise.names import Granularity


@dataclass(frozen=True)
class Norm:
    """How the family's norms compute (RMSNorm or LayerNorm), and where they keep ε."""

    is_centred: bool
    """Whether the mean is subtracted first (LayerNorm)."""
    weight_offset: float
    """Added to the stored weight before multiplication; 1 in Gemma."""
    epsilon: str
    """Name of the module's attribute that holds ε."""


RMS_NORM = Norm(is_centred=False, weight_offset=0.0, epsilon="variance_epsilon")
GEMMA_RMS_NORM = Norm(is_centred=False, weight_offset=1.0, epsilon="eps")
LAYER_NORM = Norm(is_centred=True, weight_offset=0.0, epsilon="eps")


@dataclass(frozen=True)
class SeparateProjections:
    """Queries, keys and values are computed by three linear modules."""

    query: str
    key: str
    value: str


class FusedLayout(StrEnum):
    """The order of queries, keys and values in the output features of a fused projection."""

    BLOCKS = "blocks"
    """All queries, then all keys, then all values."""
    PER_HEAD = "per_head"
    """Head by head: its query, its key and its value."""


@dataclass(frozen=True)
class FusedProjection:
    """Queries, keys and values are computed by one linear module."""

    path: str
    layout: FusedLayout


@dataclass(frozen=True)
class Requirement:
    """A configuration entry that must have one of the `allowed` values, or else the family differs.

    An entry that is missing in the configuration counts as allowed.
    """

    setting: str
    allowed: tuple[object, ...]
    otherwise: str
    """What the model does with another value, as a clause such as "logits pass a tanh"."""


@dataclass(frozen=True)
class Family:
    """Description of one transformer family by the paths of its parts (docs/guides/families.md).

    A path is what `nn.Module.get_submodule` takes. The paths from `backbone` to `head` start at
    the model, all others at a decoder layer.
    """

    name: str
    architectures: tuple[str, ...]
    """Values of `config.architectures` that this description fits."""
    backbone: str
    """The module that returns the last hidden states."""
    layers: str
    """The `ModuleList` of decoder layers."""
    final_norm: str
    head: str
    norm: Norm
    layer_norms: tuple[str, ...]
    """All norms of a layer, including those on queries and keys."""
    attention: SeparateProjections | FusedProjection
    attention_output: str
    """The linear module whose input features are the heads' outputs, head after head."""
    activation: str
    mlp_product: bool
    """Whether the MLP multiplies a gate with an up projection before its output projection."""
    mlp_output: str
    """The linear module whose input features are the MLP's neurons; in a mixture of experts, the
    fused parameter `(expert, hidden, feature)` with this role."""
    experts: str | None = None
    """In a mixture of experts, the module with the experts' fused parameters."""
    granularities: frozenset[Granularity] = frozenset(Granularity)
    """What components can be."""
    requirements: tuple[Requirement, ...] = ()
