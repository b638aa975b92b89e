"""Perplexity and full-sequence KL of a changed model against its base, on the same text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from workers.batches import TokenBatch, build_batches
from workers.domain import TokenSequence
from workers.families import Family, head_weight
from workers.progress import Advance

POSITIONS_AT_ONCE = 512
"""Positions whose whole next-token distribution is held in memory at a time."""


@dataclass(frozen=True)
class TextDamage:
    """What a changed model does to a text, measured over `tokens` predicted tokens."""

    perplexity: float
    """exp(summed negative log-likelihood / predicted tokens)."""
    kl_mean: float
    """Mean over positions of KL(base ‖ changed) of the next-token distribution, nats."""
    kl_p95: float
    tokens: int


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of a model on a text, over `tokens` predicted tokens."""

    value: float
    """exp(summed negative log-likelihood / predicted tokens)."""
    tokens: int


def compute_perplexity(
    model: nn.Module,
    family: Family,
    samples: Sequence[TokenSequence],
    pad_id: int,
    *,
    batch_tokens: int = 4096,
    on_batch: Advance | None = None,
) -> Perplexity:
    """Return the perplexity of `samples`, each predicted from its own start.

    The corpus and the samples' length, its context, are part of the figure's name and the
    caller's to tell. Keeps nothing of a batch. `on_batch` is called with the number of samples
    of each. Raises `ValueError` when no sample has two tokens, as nothing is predicted then.
    """
    total, tokens = 0.0, 0
    for batch in _build_predicting_batches(samples, batch_tokens, pad_id):
        states, next_ids = _predict(model, family, batch)
        total += _sum_negative_log_likelihood(states, next_ids, head_weight(model, family))
        tokens += len(next_ids)
        if on_batch is not None:
            on_batch(len(batch.sample_indices))
    return Perplexity(math.exp(total / tokens), tokens)


class ReferenceText:
    """A text with the base model's own predictions of it, to measure changed models against.

    Only the base model's last hidden states are kept, `(token, hidden)`; the distributions
    are recomputed from them, because a correction never touches the head.
    """

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        samples: Sequence[TokenSequence],
        pad_id: int,
        batch_tokens: int = 4096,
        on_batch: Advance | None = None,
    ) -> None:
        """Measure the base `model` on `samples`.

        Raises `ValueError` when no sample has two tokens, as nothing is predicted then.
        """
        self._family = family
        self._batches = _build_predicting_batches(samples, batch_tokens, pad_id)
        self._base_states: list[torch.Tensor] = []
        total, self.tokens = 0.0, 0
        for batch in self._batches:
            states, next_ids = _predict(model, family, batch)
            self._base_states.append(states.cpu())
            total += _sum_negative_log_likelihood(states, next_ids, head_weight(model, family))
            self.tokens += len(next_ids)
            if on_batch is not None:
                on_batch(len(batch.sample_indices))
        self.base_perplexity = math.exp(total / self.tokens)

    @torch.inference_mode()
    def measure(self, model: nn.Module, on_batch: Advance | None = None) -> TextDamage:
        """Return perplexity and divergence of `model`, the base after some change."""
        head = head_weight(model, self._family)
        total = 0.0
        divergences: list[torch.Tensor] = []
        for batch, base_states in zip(self._batches, self._base_states, strict=True):
            states, next_ids = _predict(model, self._family, batch)
            for part in range(0, len(states), POSITIONS_AT_ONCE):
                span = slice(part, part + POSITIONS_AT_ONCE)
                changed = functional.log_softmax((states[span] @ head.T).float(), dim=-1)
                total -= float(changed.gather(1, next_ids[span, None]).sum())
                base = (base_states[span].to(head.device) @ head.T).float()
                divergences.append(_kl_divergence(base, changed).cpu())
            if on_batch is not None:
                on_batch(len(batch.sample_indices))
        kl = torch.cat(divergences)
        return TextDamage(
            perplexity=math.exp(total / self.tokens),
            kl_mean=float(kl.mean()),
            kl_p95=float(torch.quantile(kl, 0.95)),
            tokens=self.tokens,
        )


def _build_predicting_batches(
    samples: Sequence[TokenSequence], batch_tokens: int, pad_id: int
) -> list[TokenBatch]:
    usable = [sample for sample in samples if len(sample.token_ids) > 1]
    if not usable:
        raise ValueError("reference text has no sample of two tokens or more")
    return list(build_batches(usable, batch_tokens, pad_id))


@torch.inference_mode()
def _predict(
    model: nn.Module, family: Family, batch: TokenBatch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return hidden states `(position, hidden)` that predict a token, and those tokens."""
    placed = batch.to(next(model.parameters()).device)
    backbone = model.get_submodule(family.backbone)
    hidden = backbone(input_ids=placed.token_ids, use_cache=False).last_hidden_state
    followed = placed.is_token[:, 1:]
    return hidden[:, :-1][followed], placed.token_ids[:, 1:][followed]


@torch.inference_mode()
def _sum_negative_log_likelihood(
    states: torch.Tensor, next_ids: torch.Tensor, head: torch.Tensor
) -> float:
    total = 0.0
    for part in range(0, len(states), POSITIONS_AT_ONCE):
        span = slice(part, part + POSITIONS_AT_ONCE)
        logits = (states[span] @ head.T).float()
        total += float(functional.cross_entropy(logits, next_ids[span], reduction="sum"))
    return total


def _kl_divergence(base_logits: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
    """Return KL(base ‖ changed) per position from logits and log-probabilities, `(position,)`."""
    base = functional.log_softmax(base_logits, dim=-1)
    divergence = (base.exp() * (base - changed)).sum(dim=-1)
    return divergence.clamp(min=0)
