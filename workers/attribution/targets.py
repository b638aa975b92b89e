"""What relevance starts from: one scalar a predicted position, as directions in hidden space.

The head is linear, so `logit[a] − logit[b] = hidden · (W[a] − W[b])`. A target is therefore a
direction `(hidden,)` for each position, computed without a graph, and the backward pass
starts at the last hidden states: no gradient ever flows through the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch

from workers.attribution.draws import draw_uniforms
from workers.models.batches import NO_CONTRAST, TokenBatch

DIRECTION_POSITIONS = 128
"""Positions whose logits exist at one time, several times over: 25 MB each with SmolLM2's
vocabulary. 512 took 190 MB more and were no faster beyond the noise (benchmarks/RESULTS.md)."""


class Target(StrEnum):
    """Which quantity of the next-token logits is explained at a position."""

    EMITTED_MINUS_RUNNER_UP = "emitted_minus_runner_up"
    """Logit of the token that follows, minus the best other logit: why this token won."""
    EMITTED_LOG_PROBABILITY = "emitted_log_probability"
    """Log-probability of the token that follows."""
    SAMPLED_LOG_PROBABILITY = "sampled_log_probability"
    """Log-probability of a token drawn from the model's own prediction. The squares of its
    gradients are the Fisher information: what a change does to the distribution as a whole."""
    TOP_LOGIT = "top_logit"
    """The largest logit."""
    EMITTED_MINUS_CONTRAST = "emitted_minus_contrast"
    """Logit of the token that follows, minus that of the sample's own other token: why this
    answer and not that one (`TokenSequence.contrast_ids`)."""


@dataclass(frozen=True)
class TokenMass:
    """The probability of some tokens, each weighted: what makes undesired text undesired.

    Its gradient is Σ w(v) p(v) (W[v] − Σ p(u) W[u]): nothing where none of the tokens is likely,
    whatever was in fact emitted. So every position tells something, not only those at which an
    undesired token was drawn.
    """

    token_ids: tuple[int, ...]
    weights: tuple[float, ...]
    """In (0, 1]: how surely each token is undesired where it comes."""


def find_target_positions(batch: TokenBatch) -> torch.Tensor:
    """Return a bool tensor `(sample, token)`: positions whose next token is to be explained.

    With a response these are the positions that predict its explained tokens (so the last
    prompt token may be in, the last response token never is); without one, all that have a
    next token.
    """
    followed = torch.zeros_like(batch.is_token)
    followed[:, :-1] = batch.is_token[:, 1:]
    predicts_explained = torch.zeros_like(batch.is_explained)
    predicts_explained[:, :-1] = batch.is_explained[:, 1:]
    has_explained = batch.is_explained.any(dim=1, keepdim=True)
    return torch.where(has_explained, predicts_explained, followed)


@torch.no_grad()
def compute_directions(
    states: torch.Tensor,
    batch: TokenBatch,
    positions: torch.Tensor,
    head: torch.Tensor,
    target: Target | TokenMass,
    seed: int = 0,
) -> torch.Tensor:
    """Return `compute_target_directions` of a batch's states at `positions`, on their device.

    `states` `(position, hidden)`, `positions` as `find_target_positions` gives them. A few
    positions at a time, so that the logits of the whole batch never exist at once. What a
    target draws for a sample depends on `seed` and the sample's index alone. Raises
    `ValueError` where the target needs a contrast that a sample does not have.
    """
    next_ids = batch.token_ids.roll(-1, dims=1)[positions].to(head.device)
    contrast_ids = batch.contrast_ids.roll(-1, dims=1)[positions].to(head.device)
    if target is Target.EMITTED_MINUS_CONTRAST and bool((contrast_ids == NO_CONTRAST).any()):
        raise ValueError(f"{target} needs a contrast for every explained token; add contrast_ids")
    uniforms = _draw_uniforms(seed, batch, positions).to(head.device)
    directions = torch.empty_like(states)
    for start in range(0, len(states), DIRECTION_POSITIONS):
        part = slice(start, start + DIRECTION_POSITIONS)
        directions[part] = compute_target_directions(
            states[part].to(head.device),
            next_ids[part],
            head,
            target,
            contrast_ids[part],
            uniforms[part],
        )
    return directions


@torch.no_grad()
def compute_target_directions(
    hidden: torch.Tensor,
    next_ids: torch.Tensor,
    head: torch.Tensor,
    target: Target | TokenMass,
    contrast_ids: torch.Tensor | None = None,
    uniforms: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the direction `(position, hidden)` whose product with `hidden` is the target.

    `hidden` `(position, hidden)` are the normalised last hidden states, `next_ids`
    `(position,)` the tokens that follow, `contrast_ids` `(position,)` those they are explained
    against, `head` `(vocabulary, hidden)`. For a log-probability the direction is its gradient
    (the softmax's linearisation); `uniforms` `(position,)` in [0, 1) draw the tokens of the
    sampled one. Raises `ValueError` where the target needs one of them and it is missing.
    """
    if target is Target.EMITTED_MINUS_CONTRAST:
        if contrast_ids is None:
            raise ValueError(f"{target} needs contrast_ids")
        return head[next_ids] - head[contrast_ids]
    logits = hidden @ head.T
    if isinstance(target, TokenMass):
        return _compute_mass_directions(logits, head, target)
    if target is Target.TOP_LOGIT:
        return head[logits.argmax(dim=-1)]
    if target in (Target.EMITTED_LOG_PROBABILITY, Target.SAMPLED_LOG_PROBABILITY):
        probabilities = torch.softmax(logits.float(), dim=-1)
        if target is Target.SAMPLED_LOG_PROBABILITY:
            if uniforms is None:
                raise ValueError(f"{target} needs uniforms")
            next_ids = _draw_tokens(probabilities, uniforms)
        # One product: in bfloat16 the difference of two would be lost where p is almost 1.
        shares = probabilities.neg_()
        shares.scatter_add_(1, next_ids[:, None], torch.ones_like(shares[:, :1]))
        return shares.to(head.dtype) @ head
    logits.scatter_(1, next_ids[:, None], -torch.inf)
    return head[next_ids] - head[logits.argmax(dim=-1)]


def _draw_uniforms(seed: int, batch: TokenBatch, positions: torch.Tensor) -> torch.Tensor:
    """Return a number in [0, 1) for each of `positions`, by sample and token, on the CPU."""
    rows, tokens = positions.cpu().nonzero(as_tuple=True)
    return draw_uniforms(seed, torch.tensor(batch.sample_indices)[rows], tokens)


def _draw_tokens(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Return for each position the token in whose share of [0, 1) its number lies."""
    ends = probabilities.cumsum(dim=-1)
    return torch.searchsorted(ends, uniforms[:, None] * ends[:, -1:], right=True).squeeze(1)


def _compute_mass_directions(
    logits: torch.Tensor, head: torch.Tensor, mass: TokenMass
) -> torch.Tensor:
    """Return the gradient of the tokens' weighted probability with respect to the states."""
    probabilities = torch.softmax(logits.float(), dim=-1)
    ids = torch.tensor(mass.token_ids, device=head.device)
    weights = torch.tensor(mass.weights, device=head.device)
    own = probabilities[:, ids] * weights
    shares = probabilities.mul_(-own.sum(dim=-1, keepdim=True))
    shares.index_add_(1, ids, own)
    return shares.to(head.dtype) @ head
