"""One tiny random model per supported family, with the peculiarities its rules must survive."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
)

SHARED = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
SLIDING = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
MIXTURE = {"num_experts_per_tok": 2}

SETTINGS: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "mistral": {"sliding_window": 4},
    "qwen2": {"use_sliding_window": True, "tie_word_embeddings": True, **SLIDING},
    "qwen3": {"head_dim": 12, "attention_bias": True},
    "gemma3_text": {
        "head_dim": 12,
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 20,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        **SLIDING,
    },
    "olmo2": {"head_dim": 12, "attention_bias": True},
    "phi3": {"partial_rotary_factor": 0.5},
    "opt": {
        "ffn_dim": 48,
        "word_embed_proj_dim": 32,
        "activation_function": "relu",
        "tie_word_embeddings": True,
    },
    "gpt2": {"n_inner": 48, "tie_word_embeddings": True},
    "gpt_neox": {"rotary_pct": 0.25, "use_parallel_residual": True},
    "mixtral": {"num_local_experts": 4, **MIXTURE},
    "qwen3_moe": {
        "num_experts": 4,
        "moe_intermediate_size": 24,
        "norm_topk_prob": True,
        "head_dim": 12,
        **MIXTURE,
    },
}
MIXTURES = ("mixtral", "qwen3_moe")
DENSE = tuple(name for name in SETTINGS if name not in MIXTURES)


def build_family_model(name: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Two random layers; weights, norms and biases large enough that a forgotten one shows."""
    config = AutoConfig.for_model(name, **(SHARED | SETTINGS[name] | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for key, parameter in model.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.2)
            elif key.endswith("bias"):
                nn.init.normal_(parameter, std=0.1)
            else:
                offset = 1.0 if name == "gemma3_text" else 0.0
                nn.init.uniform_(parameter, 0.5 - offset, 1.5 - offset)
    return model.eval()
