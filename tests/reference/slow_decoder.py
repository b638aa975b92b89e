"""AttnLRP on a decoder, written slowly from the formulas: explicit relevance, layer by layer.

Nothing here uses autograd or the code under test. The forward pass is redone by hand in float64
and relevance is propagated by its redistribution rules (arXiv 2402.05602: ε-rule Eq. 8,
identity Eq. 9, Taylor softmax Eq. 13, uniform Eq. 14). One sample at a time, one head at a
time. Biases keep the relevance that they give.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Linear:
    """`x @ weight.T + bias`, and the relevance of every weight found on the way back."""

    weight: Tensor
    bias: Tensor | None = None
    relevance: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        z = x @ self.weight.T
        return z if self.bias is None else z + self.bias

    def redistribute(self, x: Tensor, relevance: Tensor) -> Tensor:
        """ε-rule: R_j = Σ_i W_ij x_j R_i / z_i, and the weights' own Σ_t W_ij x_j R_i / z_i."""
        ratio = divide(relevance, self(x))
        self.relevance = self.weight * (ratio.T @ x)
        return x * (ratio @ self.weight)


@dataclass
class Norm:
    """RMSNorm, or LayerNorm where `is_centred`; the spread counts as a constant."""

    weight: Tensor
    epsilon: float
    is_centred: bool = False
    bias: Tensor | None = None

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        centred = x - x.mean(-1, keepdim=True) if self.is_centred else x
        spread = torch.sqrt((centred * centred).mean(-1, keepdim=True) + self.epsilon)
        return centred, centred / spread * self.weight

    def __call__(self, x: Tensor) -> Tensor:
        scaled = self.parts(x)[1]
        return scaled if self.bias is None else scaled + self.bias

    def redistribute(self, x: Tensor, relevance: Tensor) -> Tensor:
        centred, scaled = self.parts(x)
        kept = scaled * divide(relevance, self(x))  # the bias takes its share
        if not self.is_centred:
            return kept
        n = x.shape[-1]
        return x * (divide(kept, centred) @ (torch.eye(n, dtype=x.dtype) - 1 / n))


@dataclass
class Layer:
    """The parts of one decoder layer, whatever family they come from."""

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    up: Linear
    down: Linear
    gate: Linear | None
    attention_norm: Norm | None
    mlp_norm: Norm | None
    activation: Callable[[Tensor], Tensor]
    heads: int
    scaling: float
    is_parallel: bool = False
    window: int | None = None
    rotation: tuple[Tensor, Tensor] | None = None
    """Cosines and sines `(token, feature)` of the rotary embedding; the rest is not rotated."""
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    """On each head by itself."""
    queries_norm: Norm | None = None
    keys_norm: Norm | None = None
    """On all heads together."""
    attention_post_norm: Norm | None = None
    mlp_post_norm: Norm | None = None
    neuron_relevance: Tensor = field(default_factory=lambda: torch.empty(0))
    head_relevance: Tensor = field(default_factory=lambda: torch.empty(0))

    # --- forward -----------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        self.n1 = post(self.attention_norm, x)
        self.raw_q, self.raw_k, self.v = self.query(self.n1), self.key(self.n1), self.value(self.n1)
        self.q, self.k = post(self.queries_norm, self.raw_q), post(self.keys_norm, self.raw_k)
        self.mixed = torch.cat([self.forward_head(head) for head in range(self.heads)], dim=1)
        self.written = self.output(self.mixed)
        self.attended = post(self.attention_post_norm, self.written)
        self.middle = x + self.attended
        self.source = x if self.is_parallel else self.middle
        self.n2 = post(self.mlp_norm, self.source)
        inner = self.up(self.n2)
        if self.gate is None:
            self.neurons = self.activation(inner)
        else:
            self.neurons = self.activation(self.gate(self.n2)) * inner
        self.mlp_written = self.down(self.neurons)
        self.mlp = post(self.mlp_post_norm, self.mlp_written)
        self.out = self.middle + self.mlp
        return self.out

    def slices(self, head: int) -> tuple[slice, slice]:
        d = self.q.shape[1] // self.heads
        shared = head // (self.heads * d // self.k.shape[1])
        return slice(head * d, (head + 1) * d), slice(shared * d, (shared + 1) * d)

    def rotations(self) -> list[Tensor]:
        """One matrix for each position, on the query's and key's features."""
        d = self.q.shape[1] // self.heads
        matrices = []
        for position in range(len(self.q)):
            matrix = torch.eye(d, dtype=torch.float64)
            if self.rotation is not None:
                cosine, sine = (part[position] for part in self.rotation)
                half = len(cosine) // 2
                matrix[: 2 * half, : 2 * half] = torch.diag(cosine)
                for i in range(half):
                    matrix[i, i + half], matrix[i + half, i] = -sine[i], sine[i + half]
            matrices.append(matrix)
        return matrices

    def forward_head(self, head: int) -> Tensor:
        own, shared = self.slices(head)
        n, rotations = len(self.q), self.rotations()
        q_normed = post(self.query_norm, self.q[:, own])
        k_normed = post(self.key_norm, self.k[:, shared])
        q = torch.stack([rotations[i] @ q_normed[i] for i in range(n)])
        k = torch.stack([rotations[i] @ k_normed[i] for i in range(n)])
        scores = q @ k.T * self.scaling
        visible = torch.tril(torch.ones(n, n, dtype=torch.bool))
        if self.window is not None:
            visible &= ~torch.tril(torch.ones(n, n, dtype=torch.bool), -self.window)
        weights = torch.softmax(scores.masked_fill(~visible, -torch.inf), dim=-1)
        self.trace = getattr(self, "trace", {})
        self.trace[head] = (q_normed, k_normed, q, k, scores.masked_fill(~visible, 0.0), weights)
        return weights @ self.v[:, shared]

    # --- relevance, backwards ----------------------------------------------------------

    def backward(self, relevance: Tensor) -> Tensor:
        """Propagate relevance `(token, hidden)` of the layer's output to its input."""
        to_middle, to_mlp = share_sum(self.middle, self.mlp, relevance)
        to_source = self.backward_mlp(back(self.mlp_post_norm, self.mlp_written, to_mlp))
        if not self.is_parallel:
            to_middle = to_middle + to_source
        to_x, to_attended = share_sum(self.x, self.attended, to_middle)
        to_written = back(self.attention_post_norm, self.written, to_attended)
        mixed = self.output.redistribute(self.mixed, to_written)
        self.head_relevance = mixed.unflatten(1, (self.heads, -1)).sum(-1)
        to_n1 = self.backward_heads(mixed)
        to_x = to_x + back(self.attention_norm, self.x, to_n1)
        return to_x + to_source if self.is_parallel else to_x

    def backward_mlp(self, relevance: Tensor) -> Tensor:
        self.neuron_relevance = self.down.redistribute(self.neurons, relevance)
        if self.gate is None:  # the activation passes relevance on unchanged
            to_n2 = self.up.redistribute(self.n2, self.neuron_relevance)
        else:  # uniform rule on gate · up
            half = self.neuron_relevance / 2
            to_n2 = self.gate.redistribute(self.n2, half) + self.up.redistribute(self.n2, half)
        return back(self.mlp_norm, self.source, to_n2)

    def backward_heads(self, mixed: Tensor) -> Tensor:
        to_q, to_k, to_v = (torch.zeros_like(part) for part in (self.q, self.k, self.v))
        rotations = self.rotations()
        for head in range(self.heads):
            own, shared = self.slices(head)
            q_normed, k_normed, q, k, scores, weights = self.trace[head]
            to_weights, from_v = share_product(weights, self.v[:, shared], mixed[:, own])
            # Taylor rule for the softmax: R_i = s_i (R_i − a_i Σ_j R_j)
            to_scores = scores * (to_weights - weights * to_weights.sum(-1, keepdim=True))
            from_q, from_k = share_product(q * self.scaling, k.T, to_scores)
            rotated = [Linear(rotation) for rotation in rotations]
            q_back = each_position(rotated, q_normed, from_q)
            k_back = each_position(rotated, k_normed, from_k.T)
            to_q[:, own] += back(self.query_norm, self.q[:, own], q_back)
            to_k[:, shared] += back(self.key_norm, self.k[:, shared], k_back)
            to_v[:, shared] += from_v
        to_q = back(self.queries_norm, self.raw_q, to_q)
        to_k = back(self.keys_norm, self.raw_k, to_k)
        parts = ((self.query, to_q), (self.key, to_k), (self.value, to_v))
        return sum(linear.redistribute(self.n1, part) for linear, part in parts)


@dataclass
class SlowDecoder:
    """All layers and the final norm."""

    layers: list[Layer]
    final_norm: Norm

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer.forward(x)
        self.last = x
        return self.final_norm(x)

    def backward(self, relevance: Tensor) -> Tensor:
        """Propagate relevance of the normalised last states to the first layer's input."""
        relevance = self.final_norm.redistribute(self.last, relevance)
        for layer in reversed(self.layers):
            relevance = layer.backward(relevance)
        return relevance


def each_position(linears: list[Linear], x: Tensor, relevance: Tensor) -> Tensor:
    rows = [linears[i].redistribute(x[i : i + 1], relevance[i : i + 1]) for i in range(len(x))]
    return torch.cat(rows)


def post(norm: Norm | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


def back(norm: Norm | None, x: Tensor, relevance: Tensor) -> Tensor:
    return relevance if norm is None else norm.redistribute(x, relevance)


def gelu_tanh(x: Tensor) -> Tensor:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1 + torch.tanh(inner))


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def relu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.zeros_like(x))


def silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """ε-stabilised ratio with ε → 0: zero relevance where the output is exactly zero."""
    safe = torch.where(denominator == 0, torch.ones_like(denominator), denominator)
    return torch.where(denominator == 0, torch.zeros_like(numerator), numerator / safe)


def share_sum(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """ε-rule on a + b."""
    ratio = divide(relevance, a + b)
    return a * ratio, b * ratio


def share_product(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Uniform and ε-rule on a @ b: each factor receives half, by its part in every term."""
    ratio = divide(relevance, 2 * (a @ b))
    return a * (ratio @ b.T), b * (a.T @ ratio)
