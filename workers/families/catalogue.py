"""The supported families. Data only; docs/guides/families.md says how to add one."""

from __future__ import annotations

from dataclasses import replace

from workers.families.description import (
    GEMMA_RMS_NORM,
    LAYER_NORM,
    RMS_NORM,
    Family,
    FusedLayout,
    FusedProjection,
    Requirement,
    SeparateProjections,
)

LLAMA = Family(
    name="llama",
    architectures=("LlamaForCausalLM",),
    backbone="model",
    layers="model.layers",
    final_norm="model.norm",
    head="lm_head",
    norm=RMS_NORM,
    layer_norms=("input_layernorm", "post_attention_layernorm"),
    attention=SeparateProjections("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_output="self_attn.o_proj",
    activation="mlp.act_fn",
    mlp_product=True,
    mlp_output="mlp.down_proj",
)
"""Llama 2 and 3, SmolLM2 and every other model that names its architecture Llama."""

MISTRAL = replace(LLAMA, name="mistral", architectures=("MistralForCausalLM",))

QWEN2 = replace(LLAMA, name="qwen2", architectures=("Qwen2ForCausalLM",))

QWEN3 = replace(
    LLAMA,
    name="qwen3",
    architectures=("Qwen3ForCausalLM",),
    layer_norms=(*LLAMA.layer_norms, "self_attn.q_norm", "self_attn.k_norm"),
)

GEMMA3 = replace(
    LLAMA,
    name="gemma3",
    architectures=("Gemma3ForCausalLM",),
    norm=GEMMA_RMS_NORM,
    layer_norms=(
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
        "self_attn.q_norm",
        "self_attn.k_norm",
    ),
    requirements=(
        Requirement("attn_logit_softcapping", (None,), "attention scores pass a tanh"),
        Requirement("final_logit_softcapping", (None,), "logits pass a tanh"),
        Requirement("use_bidirectional_attention", (None, False), "attention is not causal"),
    ),
)
"""The text model of Gemma 3."""

OLMO2 = replace(
    LLAMA,
    name="olmo2",
    architectures=("Olmo2ForCausalLM",),
    layer_norms=(
        "post_attention_layernorm",
        "post_feedforward_layernorm",
        "self_attn.q_norm",
        "self_attn.k_norm",
    ),
)
"""OLMo 2, whose norms follow attention and MLP and span all queries and all keys."""

PHI3 = replace(
    LLAMA,
    name="phi3",
    architectures=("Phi3ForCausalLM",),
    attention=FusedProjection("self_attn.qkv_proj", FusedLayout.BLOCKS),
    activation="mlp.activation_fn",
)

OPT = Family(
    name="opt",
    architectures=("OPTForCausalLM",),
    backbone="model.decoder",
    layers="model.decoder.layers",
    final_norm="model.decoder.final_layer_norm",
    head="lm_head",
    norm=LAYER_NORM,
    layer_norms=("self_attn_layer_norm", "final_layer_norm"),
    attention=SeparateProjections("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_output="self_attn.out_proj",
    activation="activation_fn",
    mlp_product=False,
    mlp_output="fc2",
    requirements=(
        Requirement("do_layer_norm_before", (True,), "norms follow the residual sums"),
        Requirement("_remove_final_layer_norm", (False,), "there is no final norm"),
    ),
)

GPT2 = Family(
    name="gpt2",
    architectures=("GPT2LMHeadModel",),
    backbone="transformer",
    layers="transformer.h",
    final_norm="transformer.ln_f",
    head="lm_head",
    norm=LAYER_NORM,
    layer_norms=("ln_1", "ln_2"),
    attention=FusedProjection("attn.c_attn", FusedLayout.BLOCKS),
    attention_output="attn.c_proj",
    activation="mlp.act",
    mlp_product=False,
    mlp_output="mlp.c_proj",
    requirements=(Requirement("add_cross_attention", (False,), "layers attend to an encoder"),),
)

GPT_NEOX = Family(
    name="gpt_neox",
    architectures=("GPTNeoXForCausalLM",),
    backbone="gpt_neox",
    layers="gpt_neox.layers",
    final_norm="gpt_neox.final_layer_norm",
    head="lm_head",
    norm=LAYER_NORM,
    layer_norms=("input_layernorm", "post_attention_layernorm"),
    attention=FusedProjection("attention.query_key_value", FusedLayout.PER_HEAD),
    attention_output="attention.dense",
    activation="mlp.act",
    mlp_product=False,
    mlp_output="mlp.dense_4h_to_h",
)
"""GPT-NeoX and Pythia."""

MIXTRAL = replace(
    LLAMA,
    name="mixtral",
    architectures=("MixtralForCausalLM",),
    activation="mlp.experts.act_fn",
    mlp_output="mlp.experts.down_proj",
    experts="mlp.experts",
)

QWEN3_MOE = replace(
    MIXTRAL,
    name="qwen3_moe",
    architectures=("Qwen3MoeForCausalLM",),
    layer_norms=QWEN3.layer_norms,
    requirements=(
        Requirement("decoder_sparse_step", (1,), "some layers have no experts"),
        Requirement("mlp_only_layers", ([], (), None), "some layers have no experts"),
    ),
)

FAMILIES = (
    LLAMA,
    MISTRAL,
    QWEN2,
    QWEN3,
    GEMMA3,
    OLMO2,
    PHI3,
    OPT,
    GPT2,
    GPT_NEOX,
    MIXTRAL,
    QWEN3_MOE,
)
