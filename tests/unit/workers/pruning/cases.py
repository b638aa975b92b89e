"""Tiny models of families that store their weights differently, with something to prune in each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from excise.names import Granularity
from tests.tiny import build_tiny_model, select_components
from workers.domain import Selection

NEURON, HEAD, WEIGHT = Granularity.NEURON, Granularity.HEAD, Granularity.WEIGHT
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
SHAPE = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 4}


def build_gpt2() -> PreTrainedModel:
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32, "vocab_size": 50}
    return GPT2LMHeadModel(GPT2Config(**sizes, **NO_TOKENS))


def build_opt() -> PreTrainedModel:
    sizes = {"ffn_dim": 24, "num_hidden_layers": 2, "max_position_embeddings": 32}
    return OPTForCausalLM(OPTConfig(**SHAPE, **sizes, word_embed_proj_dim=16, **NO_TOKENS))


def build_neox() -> PreTrainedModel:
    sizes = {"intermediate_size": 24, "num_hidden_layers": 2, "max_position_embeddings": 32}
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE, **sizes, **NO_TOKENS))


def build_mixtral() -> PreTrainedModel:
    sizes = {"intermediate_size": 24, "num_hidden_layers": 2, "num_key_value_heads": 2}
    experts = {"num_local_experts": 3, "num_experts_per_tok": 2}
    return MixtralForCausalLM(MixtralConfig(**SHAPE, **sizes, **experts, **NO_TOKENS))


def build_qwen3_moe() -> PreTrainedModel:
    sizes = {"moe_intermediate_size": 8, "num_hidden_layers": 2, "num_key_value_heads": 2}
    experts = {"num_experts": 3, "num_experts_per_tok": 2, "head_dim": 8}
    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SHAPE, **sizes, **experts, intermediate_size=24, **NO_TOKENS)
    )


def build_tied_llama() -> PreTrainedModel:
    return build_tiny_model(tie_word_embeddings=True)


@dataclass(frozen=True)
class Case:
    """A model and a selection in it."""

    build_model: Callable[[], PreTrainedModel]
    granularity: Granularity
    indices: dict[str, list[int]]
    head_dim: int | None = None
    """Size of a head, for reference formulas only."""

    @property
    def selection(self) -> Selection:
        return select_components(self.indices, self.granularity)

    def build(self, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = self.build_model()
            for parameter in model.parameters():
                nn.init.normal_(parameter, std=0.3)
        return model.to(dtype).eval()


CASES = {
    "llama neurons": Case(build_tied_llama, NEURON, {"model.layers.1.mlp.down_proj": [0, 7, 47]}),
    "llama heads": Case(
        build_tied_llama,
        HEAD,
        {"model.layers.0.self_attn.o_proj": [3], "model.layers.1.self_attn.o_proj": [0, 2]},
        head_dim=8,
    ),
    "llama weights": Case(
        build_tied_llama,
        WEIGHT,
        {"model.layers.0.self_attn.q_proj": [0, 33, 1023], "model.layers.1.mlp.up_proj": [40]},
    ),
    "gpt2 neurons": Case(build_gpt2, NEURON, {"transformer.h.0.mlp.c_proj": [1, 63]}),
    "gpt2 heads": Case(build_gpt2, HEAD, {"transformer.h.1.attn.c_proj": [1, 3]}, head_dim=4),
    "gpt2 weights": Case(build_gpt2, WEIGHT, {"transformer.h.1.attn.c_attn": [0, 47, 48, 767]}),
    "opt neurons": Case(build_opt, NEURON, {"model.decoder.layers.1.fc2": [2, 3]}),
    "opt heads": Case(
        build_opt, HEAD, {"model.decoder.layers.0.self_attn.out_proj": [0]}, head_dim=4
    ),
    "neox neurons": Case(build_neox, NEURON, {"gpt_neox.layers.0.mlp.dense_4h_to_h": [23]}),
    "neox weights": Case(build_neox, WEIGHT, {"gpt_neox.layers.0.attention.dense": [5, 17]}),
    "mixtral neurons": Case(
        build_mixtral, NEURON, {"model.layers.1.mlp.experts.down_proj": [0, 23, 24, 71]}
    ),
    "mixtral weights": Case(
        build_mixtral,
        WEIGHT,
        {
            "model.layers.0.self_attn.k_proj": [3],
            # Gates and up projections of three experts: 48 rows of 16 each.
            "model.layers.1.mlp.experts.gate_up_proj": [0, 383, 384, 767, 768, 1200, 2303],
            "model.layers.1.mlp.experts.down_proj": [0, 383, 384, 1151],
        },
    ),
    "qwen3 moe neurons": Case(
        build_qwen3_moe, NEURON, {"model.layers.0.mlp.experts.down_proj": [8, 23]}
    ),
    "qwen3 moe weights": Case(
        build_qwen3_moe,
        WEIGHT,
        {
            "model.layers.0.mlp.experts.down_proj": [0, 128, 383],
            "model.layers.1.mlp.experts.gate_up_proj": [127, 128, 767],
        },
    ),
    "qwen3 moe heads": Case(
        build_qwen3_moe, HEAD, {"model.layers.0.self_attn.o_proj": [1]}, head_dim=8
    ),
}


def find_parameter(model: nn.Module, name: str) -> nn.Parameter:
    """The weight of a linear module, or a bare parameter."""
    parameters = dict(model.named_parameters())
    return parameters.get(f"{name}.weight", parameters.get(name))


@torch.no_grad()
def prune_slowly(model: nn.Module, case: Case, scale: float = 0.0) -> None:
    """Multiply the chosen components one by one, each in the layout its family is known to have."""
    is_gpt2 = isinstance(model, GPT2LMHeadModel)
    for name, indices in case.indices.items():
        weight = find_parameter(model, name)
        for index in indices:
            if case.granularity is WEIGHT:
                weight.view(-1)[index] *= scale
            elif weight.ndim == 3:
                features = weight.shape[2]
                weight[index // features, :, index % features] *= scale
            else:
                size = case.head_dim or 1
                features = slice(index * size, (index + 1) * size)
                weight[features if is_gpt2 else (slice(None), features)] *= scale
