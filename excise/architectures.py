"""The supported architectures, and what each has that its config.json leaves unsaid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType


@dataclass(frozen=True)
class Architecture:
    """What determines the number of weights, besides the counts in config.json."""

    mlp_matrices: int
    """Matrices of an MLP: 3 with a gate, 2 without."""
    shares_keys: bool
    """Whether `num_key_value_heads` counts; otherwise every head has its own keys and values."""
    is_tied: bool = False
    """Whether embedding and head are the same matrix unless config.json says otherwise."""


_PLAIN = Architecture(mlp_matrices=2, shares_keys=False)
_GATED = Architecture(mlp_matrices=3, shares_keys=True)

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "GPT2LMHeadModel": replace(_PLAIN, is_tied=True),
        "GPTNeoXForCausalLM": _PLAIN,
        "Gemma3ForCausalLM": replace(_GATED, is_tied=True),
        "LlamaForCausalLM": _GATED,
        "MistralForCausalLM": _GATED,
        "MixtralForCausalLM": _GATED,
        "OPTForCausalLM": replace(_PLAIN, is_tied=True),
        "Olmo2ForCausalLM": _GATED,
        "Phi3ForCausalLM": _GATED,
        "Qwen2ForCausalLM": _GATED,
        "Qwen3ForCausalLM": _GATED,
        "Qwen3MoeForCausalLM": _GATED,
    }
)
"""Name in config.json → the architecture. Tests hold it to the descriptions in `workers/families`
and to transformers' models."""
UNKNOWN = _PLAIN
"""Stands for an architecture that is not supported, whose size is nevertheless asked for."""
