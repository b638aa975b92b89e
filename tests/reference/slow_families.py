"""Slow decoders with the weights of each family, read from its state by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.reference.slow_decoder import (
    Layer,
    Linear,
    Norm,
    SlowDecoder,
    gelu,
    gelu_tanh,
    relu,
    silu,
)

ACTIVATIONS = {
    "silu": silu,
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": relu,
}


def build_slow_decoder(name: str, model: Any, ids: list[int]) -> tuple[SlowDecoder, Tensor]:
    """Return the decoder, and the first layer's input as the model's embeddings give it."""
    reader = {"opt": _read_opt, "gpt2": _read_gpt2, "gpt_neox": _read_gpt_neox}
    read = reader.get(name, _read_llama_like)
    state = {key: value.detach().double() for key, value in model.state_dict().items()}
    first, rotations = observe(model, ids)
    layers = [read(name, state, model.config, index) for index in range(2)]
    for layer, rotation in zip(layers, rotations, strict=True):
        layer.rotation = rotation
    final = {
        "opt": "model.decoder.final_layer_norm",
        "gpt2": "transformer.ln_f",
        "gpt_neox": "gpt_neox.final_layer_norm",
    }.get(name, "model.norm")
    return SlowDecoder(layers, _norm(name, state, model.config, final)), first


def find_weight_relevance(name: str, decoder: SlowDecoder, index: int) -> dict[str, Tensor]:
    """Return the path below layer `index` → relevance of each weight, stored as the family does."""
    layer = decoder.layers[index]
    q, k, v, o = (part.relevance for part in (layer.query, layer.key, layer.value, layer.output))
    up, down = layer.up.relevance, layer.down.relevance
    gate = None if layer.gate is None else layer.gate.relevance
    if name == "gpt2":
        return {
            "attn.c_attn": torch.cat([q, k, v]).T,
            "attn.c_proj": o.T,
            "mlp.c_fc": up.T,
            "mlp.c_proj": down.T,
        }
    if name == "gpt_neox":
        heads = [part.unflatten(0, (layer.heads, -1)) for part in (q, k, v)]
        return {
            "attention.query_key_value": torch.cat(heads, dim=1).flatten(0, 1),
            "attention.dense": o,
            "mlp.dense_h_to_4h": up,
            "mlp.dense_4h_to_h": down,
        }
    projections = {"self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": v}
    if name == "opt":
        return {**projections, "self_attn.out_proj": o, "fc1": up, "fc2": down}
    if name == "phi3":
        return {
            "self_attn.qkv_proj": torch.cat([q, k, v]),
            "self_attn.o_proj": o,
            "mlp.gate_up_proj": torch.cat([gate, up]),
            "mlp.down_proj": down,
        }
    mlp = {"mlp.gate_proj": gate, "mlp.up_proj": up, "mlp.down_proj": down}
    return {**projections, "self_attn.o_proj": o, **mlp}


def observe(model: Any, ids: list[int]) -> tuple[Tensor, list[tuple[Tensor, Tensor] | None]]:
    """Return the first layer's input `(token, hidden)`, and rotary cosines and sines by layer."""
    seen: list[tuple[Tensor, Any]] = []
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    handles = [
        layer.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append((args[0], kwargs.get("position_embeddings"))),
            with_kwargs=True,
        )
        for layer in layers
    ]
    with torch.no_grad():
        model(torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    rotations = [r and tuple(part[0].double() for part in r) for _, r in seen]
    return seen[0][0][0].double(), rotations


def _linear(state: dict[str, Tensor], path: str) -> Linear:
    return Linear(state[f"{path}.weight"], state.get(f"{path}.bias"))


def _norm(name: str, state: dict[str, Tensor], config: Any, path: str) -> Norm:
    weight, bias = state[f"{path}.weight"], state.get(f"{path}.bias")
    if name == "gemma3_text":
        weight = 1 + weight
    epsilon = {"opt": 1e-5, "gpt2": "layer_norm_epsilon", "gpt_neox": "layer_norm_eps"}.get(
        name, "rms_norm_eps"
    )
    value = epsilon if isinstance(epsilon, float) else getattr(config, epsilon)
    return Norm(weight, value, name in ("opt", "gpt2", "gpt_neox"), bias)


def _read_llama_like(name: str, state: dict[str, Tensor], config: Any, index: int) -> Layer:
    base = f"model.layers.{index}"
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    paths = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    after = {
        "attention_post_norm": "post_attention_layernorm",
        "mlp_post_norm": "post_feedforward_layernorm",
    }
    if name == "gemma3_text":
        paths = paths | after | {"mlp_norm": "pre_feedforward_layernorm"}
    elif name == "olmo2":
        paths = after
    if name in ("qwen3", "gemma3_text"):
        paths = paths | {"query_norm": "self_attn.q_norm", "key_norm": "self_attn.k_norm"}
    elif name == "olmo2":
        paths = paths | {"queries_norm": "self_attn.q_norm", "keys_norm": "self_attn.k_norm"}
    norms: dict[str, Any] = {"attention_norm": None, "mlp_norm": None}
    norms |= {part: _norm(name, state, config, f"{base}.{path}") for part, path in paths.items()}
    types = getattr(config, "layer_types", None)
    is_sliding = types[index] == "sliding_attention" if types else True
    scalar = getattr(config, "query_pre_attn_scalar", None) or head_dim
    activation = getattr(config, "hidden_act", None) or config.hidden_activation
    return Layer(
        **_llama_linears(name, state, base, heads * head_dim),
        output=_linear(state, f"{base}.self_attn.o_proj"),
        down=_linear(state, f"{base}.mlp.down_proj"),
        activation=ACTIVATIONS[activation],
        heads=heads,
        scaling=scalar**-0.5,
        window=getattr(config, "sliding_window", None) if is_sliding else None,
        **norms,
    )


def _llama_linears(
    name: str, state: dict[str, Tensor], base: str, queries: int
) -> dict[str, Linear]:
    if name != "phi3":
        paths = {"query": "self_attn.q_proj", "key": "self_attn.k_proj"}
        paths |= {"value": "self_attn.v_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj"}
        return {part: _linear(state, f"{base}.{path}") for part, path in paths.items()}
    fused = state[f"{base}.self_attn.qkv_proj.weight"]
    key, value = fused[queries:].chunk(2)
    gate, up = state[f"{base}.mlp.gate_up_proj.weight"].chunk(2)
    parts = {"query": fused[:queries], "key": key, "value": value, "gate": gate, "up": up}
    return {part: Linear(weight) for part, weight in parts.items()}


def _read_opt(name: str, state: dict[str, Tensor], config: Any, index: int) -> Layer:
    base = f"model.decoder.layers.{index}"
    return Layer(
        query=_linear(state, f"{base}.self_attn.q_proj"),
        key=_linear(state, f"{base}.self_attn.k_proj"),
        value=_linear(state, f"{base}.self_attn.v_proj"),
        output=_linear(state, f"{base}.self_attn.out_proj"),
        gate=None,
        up=_linear(state, f"{base}.fc1"),
        down=_linear(state, f"{base}.fc2"),
        attention_norm=_norm(name, state, config, f"{base}.self_attn_layer_norm"),
        mlp_norm=_norm(name, state, config, f"{base}.final_layer_norm"),
        activation=ACTIVATIONS[config.activation_function],
        heads=config.num_attention_heads,
        scaling=(config.hidden_size // config.num_attention_heads) ** -0.5,
    )


def _read_gpt2(name: str, state: dict[str, Tensor], config: Any, index: int) -> Layer:
    base = f"transformer.h.{index}"
    weights = state[f"{base}.attn.c_attn.weight"].T.chunk(3)
    biases = state[f"{base}.attn.c_attn.bias"].chunk(3)
    query, key, value = (Linear(w, b) for w, b in zip(weights, biases, strict=True))

    def conv(path: str) -> Linear:
        return Linear(state[f"{base}.{path}.weight"].T, state[f"{base}.{path}.bias"])

    return Layer(
        query=query,
        key=key,
        value=value,
        output=conv("attn.c_proj"),
        gate=None,
        up=conv("mlp.c_fc"),
        down=conv("mlp.c_proj"),
        attention_norm=_norm(name, state, config, f"{base}.ln_1"),
        mlp_norm=_norm(name, state, config, f"{base}.ln_2"),
        activation=ACTIVATIONS[config.activation_function],
        heads=config.n_head,
        scaling=(config.n_embd // config.n_head) ** -0.5,
    )


def _read_gpt_neox(name: str, state: dict[str, Tensor], config: Any, index: int) -> Layer:
    base = f"gpt_neox.layers.{index}"
    heads = config.num_attention_heads
    fused = f"{base}.attention.query_key_value"
    weights = state[f"{fused}.weight"].unflatten(0, (heads, 3, -1))
    biases = state[f"{fused}.bias"].unflatten(0, (heads, 3, -1))
    parts = [Linear(weights[:, i].flatten(0, 1), biases[:, i].flatten()) for i in range(3)]
    return Layer(
        query=parts[0],
        key=parts[1],
        value=parts[2],
        output=_linear(state, f"{base}.attention.dense"),
        gate=None,
        up=_linear(state, f"{base}.mlp.dense_h_to_4h"),
        down=_linear(state, f"{base}.mlp.dense_4h_to_h"),
        attention_norm=_norm(name, state, config, f"{base}.input_layernorm"),
        mlp_norm=_norm(name, state, config, f"{base}.post_attention_layernorm"),
        activation=ACTIVATIONS[config.hidden_act],
        heads=heads,
        scaling=(config.hidden_size // heads) ** -0.5,
        is_parallel=config.use_parallel_residual,
    )
