"""AttnLRP on a Llama, written slowly from the formulas: explicit relevance, layer by layer.

Nothing here uses autograd or the code under test. Weights are read from the model, the
forward pass is redone by hand in float64 and relevance is propagated by its redistribution
rules (arXiv 2402.05602: ε-rule Eq. 8, identity Eq. 9, Taylor softmax Eq. 13, uniform Eq. 14).
One sample at a time, one head at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class SlowLlama:
    """The model's weights in float64, its trace, and relevance found on the way back."""

    state: dict[str, Tensor]
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    epsilon: float
    theta: float
    neuron_relevance: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def from_model(cls, model) -> SlowLlama:
        config = model.config
        state = {name: value.detach().double() for name, value in model.state_dict().items()}
        return cls(
            state,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            config.rms_norm_eps,
            config.rope_parameters["rope_theta"],
        )

    # --- forward -----------------------------------------------------------------------

    def weight(self, name: str) -> Tensor:
        return self.state[f"{name}.weight"]

    def norm(self, x: Tensor, name: str) -> Tensor:
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.epsilon) * self.weight(name)

    def rotation(self, position: int) -> Tensor:
        """The rotary matrix `(head_dim, head_dim)` of one position (halves rotated together)."""
        half = self.head_dim // 2
        matrix = torch.zeros(self.head_dim, self.head_dim, dtype=torch.float64)
        for i in range(half):
            angle = position / self.theta ** (2 * i / self.head_dim)
            matrix[i, i] = matrix[i + half, i + half] = math.cos(angle)
            matrix[i, i + half], matrix[i + half, i] = -math.sin(angle), math.sin(angle)
        return matrix

    def forward(self, ids: list[int]) -> Tensor:
        self.trace: list[dict[str, Tensor]] = []
        x = self.state["model.embed_tokens.weight"][ids]
        for layer in range(self.layers):
            x = self.forward_layer(x, layer)
        self.last = x
        self.hidden = self.norm(x, "model.norm")
        return self.hidden

    def forward_layer(self, x: Tensor, layer: int) -> Tensor:
        base, t = f"model.layers.{layer}", {}
        t["x"] = x
        t["n1"] = self.norm(x, f"{base}.input_layernorm")
        for part in "qkv":
            t[part] = t["n1"] @ self.weight(f"{base}.self_attn.{part}_proj").T
        mixed = []
        for head in range(self.heads):
            mixed.append(self.forward_head(t, head))
        t["mixed"] = torch.cat(mixed, dim=1)
        t["attention"] = t["mixed"] @ self.weight(f"{base}.self_attn.o_proj").T
        t["middle"] = x + t["attention"]
        t["n2"] = self.norm(t["middle"], f"{base}.post_attention_layernorm")
        t["gate"] = t["n2"] @ self.weight(f"{base}.mlp.gate_proj").T
        t["activated"] = t["gate"] * torch.sigmoid(t["gate"])
        t["up"] = t["n2"] @ self.weight(f"{base}.mlp.up_proj").T
        t["neurons"] = t["activated"] * t["up"]
        t["mlp"] = t["neurons"] @ self.weight(f"{base}.mlp.down_proj").T
        t["out"] = t["middle"] + t["mlp"]
        self.trace.append(t)
        return t["out"]

    def slices(self, head: int) -> tuple[slice, slice]:
        shared = head // (self.heads // self.kv_heads)
        d = self.head_dim
        return slice(head * d, (head + 1) * d), slice(shared * d, (shared + 1) * d)

    def forward_head(self, t: dict[str, Tensor], head: int) -> Tensor:
        own, shared = self.slices(head)
        n = len(t["q"])
        rotations = [self.rotation(position) for position in range(n)]
        q = torch.stack([rotations[i] @ t["q"][i, own] for i in range(n)])
        k = torch.stack([rotations[i] @ t["k"][i, shared] for i in range(n)])
        v = t["v"][:, shared]
        scores = q @ k.T / math.sqrt(self.head_dim)
        visible = torch.tril(torch.ones(n, n, dtype=torch.bool))
        weights = torch.softmax(scores.masked_fill(~visible, -torch.inf), dim=-1)
        t[f"head{head}"] = (q, k, v, scores.masked_fill(~visible, 0.0), weights)
        return weights @ v

    # --- relevance, backwards ----------------------------------------------------------

    def backward(self, relevance: Tensor) -> Tensor:
        """Propagate relevance `(token, hidden)` of the normalised last states to the embedding."""
        for layer in reversed(range(self.layers)):  # the final norm passes relevance unchanged
            relevance = self.backward_layer(relevance, layer)
        return relevance

    def backward_layer(self, relevance: Tensor, layer: int) -> Tensor:
        base, t = f"model.layers.{layer}", self.trace[layer]
        to_middle, to_mlp = share_sum(t["middle"], t["mlp"], relevance)
        down = self.weight(f"{base}.mlp.down_proj")
        neurons = redistribute_linear(t["neurons"], down, to_mlp)
        self.neuron_relevance[f"{base}.mlp.down_proj"] = neurons
        half = neurons / 2  # uniform rule on gate · up; the activation passes it on unchanged
        gate = redistribute_linear(t["n2"], self.weight(f"{base}.mlp.gate_proj"), half)
        up = redistribute_linear(t["n2"], self.weight(f"{base}.mlp.up_proj"), half)
        to_middle = to_middle + gate + up
        to_x, to_attention = share_sum(t["x"], t["attention"], to_middle)
        output = self.weight(f"{base}.self_attn.o_proj")
        mixed = redistribute_linear(t["mixed"], output, to_attention)
        parts = self.backward_heads(t, mixed)
        for part in "qkv":
            weight = self.weight(f"{base}.self_attn.{part}_proj")
            to_x = to_x + redistribute_linear(t["n1"], weight, parts[part])
        return to_x

    def backward_heads(self, t: dict[str, Tensor], mixed: Tensor) -> dict[str, Tensor]:
        parts = {part: torch.zeros_like(t[part]) for part in "qkv"}
        for head in range(self.heads):
            own, shared = self.slices(head)
            q, k, v, scores, weights = t[f"head{head}"]
            to_weights, to_v = share_product(weights, v, mixed[:, own])
            # Taylor rule for the softmax: R_i = s_i (R_i − a_i Σ_j R_j)
            to_scores = scores * (to_weights - weights * to_weights.sum(-1, keepdim=True))
            to_q, to_k = share_product(q / math.sqrt(self.head_dim), k.T, to_scores)
            for i in range(len(q)):
                rotation = self.rotation(i)
                parts["q"][i, own] += redistribute_linear(t["q"][i, own], rotation, to_q[i])
                parts["k"][i, shared] += redistribute_linear(t["k"][i, shared], rotation, to_k.T[i])
            parts["v"][:, shared] += to_v
        return parts


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """ε-stabilised ratio with ε → 0: zero relevance where the output is exactly zero."""
    safe = torch.where(denominator == 0, torch.ones_like(denominator), denominator)
    return torch.where(denominator == 0, torch.zeros_like(numerator), numerator / safe)


def redistribute_linear(x: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
    """ε-rule: R_j = Σ_i W_ij x_j R_i / z_i."""
    z = x @ weight.T
    return x * (divide(relevance, z) @ weight)


def share_sum(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """ε-rule on a + b."""
    ratio = divide(relevance, a + b)
    return a * ratio, b * ratio


def share_product(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Uniform and ε-rule on a @ b: each factor receives half, by its part in every term."""
    ratio = divide(relevance, 2 * (a @ b))
    return a * (ratio @ b.T), b * (a.T @ ratio)
