"""The shape of a model, from its config.json: the number of weights of each kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from excise.architectures import ARCHITECTURES, UNKNOWN
from excise.names import ComputeDtype

DTYPE_BYTES = {ComputeDtype.FLOAT32: 4, ComputeDtype.BFLOAT16: 2}

MOST = 2**31
"""Largest number that is accepted as a count."""

_NAMES = {
    "layers": ("num_hidden_layers", "n_layer"),
    "hidden": ("hidden_size", "n_embd"),
    "intermediate": ("intermediate_size", "ffn_dim", "n_inner"),
    "heads": ("num_attention_heads", "n_head"),
    "vocabulary": ("vocab_size",),
}
"""Names of the same value in the supported architectures."""


class ShapeError(ValueError):
    """The config.json does not state the size of the model; the message gives the remedy."""


@dataclass(frozen=True)
class ModelShape:
    """The numbers that determine what a model costs."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    experts: int
    """Number of experts per layer; 1 if there is a single MLP."""
    active_experts: int
    """Number of experts that a token passes through."""
    mlp_matrices: int
    """3 with a gate, 2 without."""
    is_tied: bool
    """Whether embedding and head are the same matrix."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Return the shape that a config.json describes. Raises `ShapeError`."""
        name = next(iter(config.get("architectures") or [""]))
        architecture = ARCHITECTURES.get(name, UNKNOWN)
        hidden, heads = _read(config, "hidden"), _read(config, "heads")
        experts = _find(config, "num_local_experts", "num_experts") or 1
        intermediate = _read(config, "intermediate", default=4 * hidden)
        if experts > 1:
            intermediate = _find(config, "moe_intermediate_size") or intermediate
        return cls(
            layers=_read(config, "layers"),
            hidden=hidden,
            intermediate=intermediate,
            heads=heads,
            kv_heads=(architecture.shares_keys and _find(config, "num_key_value_heads")) or heads,
            head_dim=_find(config, "head_dim") or max(1, hidden // heads),
            vocabulary=_read(config, "vocabulary"),
            experts=experts,
            active_experts=_find(config, "num_experts_per_tok") or 1,
            mlp_matrices=architecture.mlp_matrices,
            is_tied=bool(config.get("tie_word_embeddings", architecture.is_tied)),
        )

    @property
    def attention_weights(self) -> int:
        """Weights of a layer's queries, keys, values and output."""
        return self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)

    @property
    def expert_weights(self) -> int:
        """Weights of one MLP."""
        return self.mlp_matrices * self.hidden * self.intermediate

    @property
    def linear_weights(self) -> int:
        """Number of single weights that can be pruned: all matrices inside the layers."""
        return self.layers * (self.attention_weights + self.experts * self.expert_weights)

    @property
    def parameters(self) -> int:
        """Number of weights, without biases and norms, which are less than one in a thousand."""
        return self.linear_weights + self.vocabulary * self.hidden * (1 if self.is_tied else 2)

    @property
    def active_weights(self) -> int:
        """Number of weights by which a token is multiplied, without the head's."""
        return self.layers * (self.attention_weights + self.active_experts * self.expert_weights)

    @property
    def head_weights(self) -> int:
        """Weights of the unembedding."""
        return self.vocabulary * self.hidden

    @property
    def neurons(self) -> int:
        """MLP neurons of all layers."""
        return self.layers * self.experts * self.intermediate

    def count_bytes(self, dtype: ComputeDtype) -> int:
        """Return the bytes of all weights in `dtype`."""
        return self.parameters * DTYPE_BYTES[dtype]

    def count_cache_bytes(self, tokens: int, dtype: ComputeDtype) -> int:
        """Return the bytes of the keys and values of this many tokens."""
        return 2 * tokens * self.layers * self.kv_heads * self.head_dim * DTYPE_BYTES[dtype]


def _read(config: Mapping[str, Any], what: str, default: int | None = None) -> int:
    """Return a number by any of its names. Raises `ShapeError` if there is none."""
    found = _find(config, *_NAMES[what]) or default
    if found is None:
        raise ShapeError(
            f"config.json gives no {' or '.join(_NAMES[what])}. Save the checkpoint again."
        )
    return found


def _find(config: Mapping[str, Any], *names: str) -> int | None:
    """Return the first of these fields that holds a count, or None."""
    values = (config.get(name) for name in names)
    return next((own for own in values if type(own) is int and 0 < own <= MOST), None)
