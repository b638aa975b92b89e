"""Targets of relevance: one scalar per predicted position, as a direction in hidden space.

The head is linear, so `logit[a] − logit[b] = hidden · (W[a] − W[b])`. A target is therefore a
direction `(hidden,)` for each position, computed without a graph. The backward pass starts at the
last hidden states, and no gradient ever flows through the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch

from workers.attribution.draws import draw_uniforms
from workers.models.batches import NO_CONTRAST, TokenBatch
from workers.models.positions import split_positions

DIRECTION_COPIES = 4
"""Copies of a position's logits that are held at once: logits, probabilities, their cumulative sums
and what is multiplied by the head. With SmolLM2's vocabulary 512 positions at a time took 190 MB
more than 128 and were not measurably faster (benchmarks/RESULTS.md)."""


class Target(StrEnum):
    """The function of the next-token logits that is explained at a position."""

    EMITTED_MINUS_RUNNER_UP = "emitted_minus_runner_up"
    """Logit of the next token minus the best other logit, or that of the sample's contrast token
    where it has one: why this token won."""
    EMITTED_LOG_PROBABILITY = "emitted_log_probability"
    """Log-probability of the next token."""
    SAMPLED_LOG_PROBABILITY = "sampled_log_probability"
    """Log-probability of a token drawn from the model's prediction. The expected square of its
    gradient is the Fisher information, which tells how a change affects the whole distribution."""
    TOP_LOGIT = "top_logit"
    """The largest logit."""
    EMITTED_MINUS_CONTRAST = "emitted_minus_contrast"
    """Logit of the next token minus that of the sample's contrast token: why this answer and not
    the other (`TokenSequence.contrast_ids`)."""


@dataclass(frozen=True)
class TokenMass:
    """The weighted probability of the tokens that make text undesired.

    Its gradient is Σ w(v) p(v) (W[v] − Σ p(u) W[u]). It depends on how likely the tokens are and
    not on the token that was emitted, so every position contributes, not only those at which an
    undesired token was drawn.
    """

    token_ids: tuple[int, ...]
    weights: tuple[float, ...]
    """In (0, 1]: how certainly each token is undesired when it occurs."""


def find_target_positions(batch: TokenBatch) -> torch.Tensor:
    """Return a bool tensor `(sample, token)`: positions whose next token is to be explained.

    In a sample with a response, these are the positions that predict its explained tokens. (The
    last prompt token may be among them, the last response token never is.) In a sample without a
    response, these are all positions that have a next token.
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

    `states` are `(position, hidden)`, `positions` those of `find_target_positions`. Only a few
    positions are processed at a time, so that the logits of the whole batch never exist at once.
    Tokens drawn for a sample depend only on `seed` and the sample's index. Raises `ValueError` if
    the target needs a contrast that a sample does not have.
    """
    next_ids = batch.token_ids.roll(-1, dims=1)[positions].to(head.device)
    contrast_ids = batch.contrast_ids.roll(-1, dims=1)[positions].to(head.device)
    if target is Target.EMITTED_MINUS_CONTRAST and bool((contrast_ids == NO_CONTRAST).any()):
        raise ValueError(f"{target} needs a contrast for every explained token; add contrast_ids")
    uniforms = _draw_uniforms(seed, batch, positions).to(head.device)
    directions = torch.empty_like(states)
    for part in split_positions(len(states), head, copies=DIRECTION_COPIES):
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
    """Return the directions `(position, hidden)` whose product with `hidden` is the target.

    `hidden` `(position, hidden)` are the hidden states after the final norm, `next_ids`
    `(position,)` the next tokens, `contrast_ids` `(position,)` those they are explained against,
    and `head` is `(vocabulary, hidden)`. For a log-probability, the direction is its gradient (the
    linearised softmax). `uniforms` `(position,)`, in [0, 1), draw the tokens of the sampled target.
    Raises `ValueError` if the target needs `contrast_ids` or `uniforms` and they are missing.
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
        # A single product: in bfloat16, the difference of two would be lost if p is almost 1.
        shares = probabilities.neg_()
        shares.scatter_add_(1, next_ids[:, None], torch.ones_like(shares[:, :1]))
        return shares.to(head.dtype) @ head
    logits.scatter_(1, next_ids[:, None], -torch.inf)
    others = logits.argmax(dim=-1)
    if contrast_ids is not None:
        others = torch.where(contrast_ids == NO_CONTRAST, others, contrast_ids)
    return head[next_ids] - head[others]


def _draw_uniforms(seed: int, batch: TokenBatch, positions: torch.Tensor) -> torch.Tensor:
    """Return a number in [0, 1) for each position, drawn by sample and token, on the CPU."""
    rows, tokens = positions.cpu().nonzero(as_tuple=True)
    return draw_uniforms(seed, torch.tensor(batch.sample_indices)[rows], tokens)


def _draw_tokens(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Return, for each position, the token drawn from its probabilities by its uniform number."""
    ends = probabilities.cumsum(dim=-1)
    return torch.searchsorted(ends, uniforms[:, None] * ends[:, -1:], right=True).squeeze(1)


def _compute_mass_directions(
    logits: torch.Tensor, head: torch.Tensor, mass: TokenMass
) -> torch.Tensor:
    """Return the gradient of the weighted probability with respect to the states.

    Its shape is `(position, hidden)`.
    """
    probabilities = torch.softmax(logits.float(), dim=-1)
    ids = torch.tensor(mass.token_ids, device=head.device)
    weights = torch.tensor(mass.weights, device=head.device)
    own = probabilities[:, ids] * weights
    shares = probabilities.mul_(-own.sum(dim=-1, keepdim=True))
    shares.index_add_(1, ids, own)
    return shares.to(head.dtype) @ head
