"""What a description of a model family says: paths, projections, norms and limits. No data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from excise.names import Granularity


@dataclass(frozen=True)
class Norm:
    """How the family's norms compute: RMSNorm or LayerNorm, and where they keep their ε."""

    is_centred: bool
    """True when the mean is subtracted first (LayerNorm)."""
    weight_offset: float
    """Added to the stored weight before it multiplies; 1 in Gemma."""
    epsilon: str
    """Attribute of the module that holds ε."""


RMS_NORM = Norm(is_centred=False, weight_offset=0.0, epsilon="variance_epsilon")
GEMMA_RMS_NORM = Norm(is_centred=False, weight_offset=1.0, epsilon="eps")
LAYER_NORM = Norm(is_centred=True, weight_offset=0.0, epsilon="eps")


@dataclass(frozen=True)
class SeparateProjections:
    """Queries, keys and values come out of three linear modules."""

    query: str
    key: str
    value: str


class FusedLayout(StrEnum):
    """In which order one projection's output features hold queries, keys and values."""

    BLOCKS = "blocks"
    """All queries, then all keys, then all values."""
    PER_HEAD = "per_head"
    """For each head its query, its key and its value."""


@dataclass(frozen=True)
class FusedProjection:
    """Queries, keys and values come out of one linear module."""

    path: str
    layout: FusedLayout


@dataclass(frozen=True)
class Requirement:
    """A configuration entry that must have one of `allowed` values for the description to hold.

    An entry that the configuration lacks counts as allowed.
    """

    setting: str
    allowed: tuple[object, ...]
    otherwise: str
    """What the model would do with another value, as a clause: "norms follow the residual sum"."""


@dataclass(frozen=True)
class Family:
    """Paths of the parts of one transformer family; see docs/guides/families.md.

    A path is what `nn.Module.get_submodule` takes. Those from `backbone` to `head` start at
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
    """Every norm of a layer, those on queries and keys included."""
    attention: SeparateProjections | FusedProjection
    attention_output: str
    """The linear module whose input features are the heads', head after head."""
    activation: str
    mlp_product: bool
    """True when the MLP multiplies a gate with an up projection before its output."""
    mlp_output: str
    """The linear module whose input features are the MLP's neurons; with experts, the path of
    the fused parameter `(expert, hidden, feature)` that plays this part."""
    experts: str | None = None
    """The module with the experts' fused parameters, in a mixture of experts."""
    granularities: frozenset[Granularity] = frozenset(Granularity)
    """What components can be."""
    requirements: tuple[Requirement, ...] = ()
