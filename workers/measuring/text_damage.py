"""Perplexity and KL divergence of a changed model from its base, on the same text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from workers.domain import TokenSequence
from workers.models.batches import TokenBatch, build_batches
from workers.models.loaded import LoadedModel
from workers.models.positions import split_positions
from workers.progress import Advance

BATCH_TOKENS = 1024
"""Padded tokens per batch. 4,096 hold four times the activations and were no faster on a CPU."""

COMPARED_COPIES = 7
"""Copies of a position's logits that a comparison of two models holds at once: the logits and
log-probabilities of both, and what their difference is weighted by."""


@dataclass(frozen=True)
class TextDamage:
    """Damage that a changed model does to a text, measured over `tokens` predicted tokens."""

    perplexity: float
    """exp(summed negative log-likelihood / predicted tokens)."""
    kl_mean: float
    """KL(base ‖ changed) of the next-token distributions, averaged over positions, nats."""
    kl_p95: float
    tokens: int
    losses: tuple[float, ...] = ()
    """Summed negative log-likelihood of each sample that predicts anything, in order, nats."""
    divergences: tuple[float, ...] = ()
    """Summed KL of each such sample, nats."""
    lengths: tuple[int, ...] = ()
    """Predicted tokens of each of them."""

    def compute_increase(self, base_perplexity: float) -> float:
        """Return the relative increase of perplexity; 0.015 means 1.5 %."""
        return self.perplexity / base_perplexity - 1


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of a model on a text, over `tokens` predicted tokens."""

    value: float
    """exp(summed negative log-likelihood / predicted tokens)."""
    tokens: int
    losses: tuple[float, ...] = ()
    """Summed negative log-likelihood of each sample that predicts anything, in order, nats."""
    lengths: tuple[int, ...] = ()
    """Predicted tokens of each of them."""


def compute_perplexity(
    loaded: LoadedModel,
    samples: Sequence[TokenSequence],
    *,
    batch_tokens: int = BATCH_TOKENS,
    on_batch: Advance | None = None,
) -> Perplexity:
    """Return the perplexity of `samples`, each predicted without any context before it.

    The corpus and the samples' length belong to the figure's name; the caller must state them.
    No tensor outlives its batch. `on_batch` is called with the number of samples in each batch.
    Raises `ValueError` if no sample has two tokens, because then nothing is predicted.
    """
    losses, lengths = _Sums(), _Sums()
    for batch in _build_predicting_batches(samples, batch_tokens, loaded.pad_id):
        states, next_ids = _predict(loaded, batch)
        losses.add(batch, _compute_losses(states, next_ids, loaded.head))
        lengths.add(batch, torch.ones(len(next_ids)))
        if on_batch is not None:
            on_batch(len(batch.sample_indices))
    tokens = int(lengths.total)
    return Perplexity(
        value=math.exp(losses.total / tokens),
        tokens=tokens,
        losses=losses.in_order(),
        lengths=tuple(map(int, lengths.in_order())),
    )


class ReferenceText:
    """A text with the base model's predictions, against which changed models are measured.

    Only the base's last hidden states `(token, hidden)` and a reference to its head are kept; the
    distributions are recomputed from them. Nothing may write to that head meanwhile: corrections
    never do, and another checkpoint has its own.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        samples: Sequence[TokenSequence],
        batch_tokens: int = BATCH_TOKENS,
        on_batch: Advance | None = None,
        known: Sequence[torch.Tensor] | None = None,
    ) -> None:
        """Measure the base model on `samples`.

        `known` are the `states` from an earlier measurement of the same model on the same samples.
        Raises `ValueError` if no sample has two tokens, because then nothing is predicted.
        """
        self._batches = _build_predicting_batches(samples, batch_tokens, loaded.pad_id)
        self._base_head = loaded.head
        self._base_tokens = 1 + max(loaded.tokenizer.get_vocab().values(), default=-1)
        self._base_states: list[torch.Tensor] = []
        losses, self.tokens = _Sums(), 0
        for number, batch in enumerate(self._batches):
            if known is None:
                states, next_ids = _predict(loaded, batch)
            else:
                placed = batch.to(loaded.device)
                states, next_ids = known[number].to(loaded.device), _find_next(placed)
            self._base_states.append(states.cpu())
            losses.add(batch, _compute_losses(states, next_ids, self._base_head))
            self.tokens += len(next_ids)
            if on_batch is not None:
                on_batch(len(batch.sample_indices))
        self.base_perplexity = math.exp(losses.total / self.tokens)

    @property
    def states(self) -> tuple[torch.Tensor, ...]:
        """The base's hidden states `(position, hidden)` of each batch, on the CPU."""
        return tuple(self._base_states)

    @torch.inference_mode()
    def measure(self, changed: LoadedModel, on_batch: Advance | None = None) -> TextDamage:
        """Return perplexity and divergence of `changed`: the base modified, or another checkpoint.

        Another checkpoint may have another architecture. Its vocabulary may be larger than the
        base's, because the base gives the added tokens no probability. It may also lack the rows
        that pad the base's head beyond its tokenizer's last token; the divergence is then taken
        over the tokens that both have. Raises `ValueError` if it lacks a token of the base's
        tokenizer, because then the divergence is not defined.
        """
        head = changed.head
        if len(head) < min(self._base_tokens, len(self._base_head)):
            raise ValueError(
                f"the model predicts {len(head)} tokens, the base {self._base_tokens}: KL is "
                "not defined; compare checkpoints of one vocabulary"
            )
        losses, sums, divergences = _Sums(), _Sums(), []
        for batch, base_states in zip(self._batches, self._base_states, strict=True):
            states, next_ids = _predict(changed, batch)
            found, lost = self._compare(base_states, states, next_ids, head)
            losses.add(batch, lost)
            sums.add(batch, found)
            divergences.append(found)
            if on_batch is not None:
                on_batch(len(batch.sample_indices))
        kl = torch.cat(divergences)
        return TextDamage(
            perplexity=math.exp(losses.total / self.tokens),
            kl_mean=float(kl.mean()),
            kl_p95=float(torch.quantile(kl, 0.95)),
            tokens=self.tokens,
            losses=losses.in_order(),
            divergences=sums.in_order(),
            lengths=self._lengths(),
        )

    def _compare(
        self,
        base_states: torch.Tensor,
        states: torch.Tensor,
        next_ids: torch.Tensor,
        head: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return KL(base ‖ changed) and the changed model's loss, `(position,)`, on the CPU."""
        base_head = self._base_head[: len(head)].to(head.device)
        divergences, losses = [], []
        for span in split_positions(len(states), head, copies=COMPARED_COPIES):
            changed = functional.log_softmax((states[span] @ head.T).float(), dim=-1)
            losses.append(-changed.gather(1, next_ids[span, None])[:, 0].cpu())
            base = (base_states[span].to(head.device) @ base_head.T).float()
            divergences.append(_kl_divergence(base, changed[:, : len(base_head)]).cpu())
        return torch.cat(divergences), torch.cat(losses)

    def _lengths(self) -> tuple[int, ...]:
        lengths = _Sums()
        for batch, states in zip(self._batches, self._base_states, strict=True):
            lengths.add(batch, torch.ones(len(states)))
        return tuple(map(int, lengths.in_order()))


class _Sums:
    """Sums, for each sample, of values at its positions."""

    def __init__(self) -> None:
        self._by_sample: dict[int, float] = {}

    def add(self, batch: TokenBatch, values: torch.Tensor) -> None:
        """Add values `(position,)`, one for each predicting position of the batch."""
        counts = batch.is_token[:, 1:].sum(dim=1).tolist()
        parts = values.double().cpu().split(counts)
        for index, part in zip(batch.sample_indices, parts, strict=True):
            self._by_sample[index] = float(part.sum())

    @property
    def total(self) -> float:
        return math.fsum(self._by_sample.values())

    def in_order(self) -> tuple[float, ...]:
        return tuple(self._by_sample[index] for index in sorted(self._by_sample))


def _build_predicting_batches(
    samples: Sequence[TokenSequence], batch_tokens: int, pad_id: int
) -> list[TokenBatch]:
    usable = [sample for sample in samples if len(sample.token_ids) > 1]
    if not usable:
        raise ValueError("reference text has no sample of two tokens or more")
    return list(build_batches(usable, batch_tokens, pad_id))


@torch.inference_mode()
def _predict(loaded: LoadedModel, batch: TokenBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the hidden states `(position, hidden)` that predict a token, and these tokens."""
    placed = batch.to(loaded.device)
    hidden = loaded.run(placed.token_ids)
    return hidden[:, :-1][placed.is_token[:, 1:]], _find_next(placed)


def _find_next(batch: TokenBatch) -> torch.Tensor:
    """Return the token ids that are predicted, `(position,)`."""
    return batch.token_ids[:, 1:][batch.is_token[:, 1:]]


@torch.inference_mode()
def _compute_losses(
    states: torch.Tensor, next_ids: torch.Tensor, head: torch.Tensor
) -> torch.Tensor:
    """Return the negative log-likelihood at each position, `(position,)` on the CPU, nats."""
    losses = []
    for span in split_positions(len(states), head):
        logits = (states[span] @ head.T).float()
        losses.append(functional.cross_entropy(logits, next_ids[span], reduction="none").cpu())
    return torch.cat(losses)


def _kl_divergence(base_logits: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
    """Return KL(base ‖ changed), `(position,)`, from base logits and changed log-probabilities."""
    base = functional.log_softmax(base_logits, dim=-1)
    divergence = (base.exp() * (base - changed)).sum(dim=-1)
    return divergence.clamp(min=0)
