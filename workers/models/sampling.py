"""Sampling of next tokens that depends only on a row's seed and the step, not on the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from workers.models.splitmix import STEP, mix, shift_right

CANDIDATES = (128, 1024)
"""How many of the most probable tokens are looked at, first and then; rows whose nucleus is larger
still are sorted whole. Of 49,152 tokens 1,024 take four times as long to find as 128 or 32 (one
core)."""


def compute_row_seed(seed: int, prompt_ids: Sequence[int], sample: int) -> int:
    """Return a signed 64-bit seed for one response to one prompt."""
    text = f"{seed}:{sample}:{','.join(map(str, prompt_ids))}"
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def draw_tokens(
    logits: torch.Tensor, seeds: torch.Tensor, step: int, temperature: float, top_p: float
) -> torch.Tensor:
    """Return the token drawn for each row, `(row,)`, from `(row, vocabulary)` and `(row,)`.

    The nucleus is the smallest set of most probable tokens whose probabilities, at the
    temperature, sum to `top_p` (Holtzman et al. 2020). From it, the token with the largest sum of
    log-probability and Gumbel noise is taken, which samples each token with its probability. The
    noise is a hash of the row's seed, the step and the token. So a model with the same predictions
    draws the same tokens, and one with almost the same predictions almost always does.
    """
    noise_seeds = seeds + torch.tensor(STEP) * step  # wraps around
    log_probabilities = torch.log_softmax(logits.float() / temperature, dim=-1)
    return draw_from_nuclei(log_probabilities, noise_seeds.to(logits.device), top_p)


def draw_from_nuclei(
    log_probabilities: torch.Tensor, seeds: torch.Tensor, top_p: float
) -> torch.Tensor:
    """Return one token `(row,)` of each row's nucleus, from `(row, vocabulary)` and `(row,)`."""
    vocabulary = log_probabilities.shape[1]
    drawn = torch.empty_like(seeds)
    rows = torch.arange(len(seeds), device=seeds.device)
    for candidates in (*CANDIDATES, vocabulary):
        count = min(candidates, vocabulary)
        whole = len(rows) == len(seeds)
        values, tokens = (log_probabilities if whole else log_probabilities[rows]).topk(count)
        drawn[rows] = _draw_sorted(values, tokens, seeds[rows], top_p)
        rows = rows[values.exp().sum(dim=-1) < top_p]
        if not len(rows) or count == vocabulary:
            break
    return drawn


def _draw_sorted(
    values: torch.Tensor, tokens: torch.Tensor, seeds: torch.Tensor, top_p: float
) -> torch.Tensor:
    """Return the tokens drawn from rows that are sorted by descending log-probability."""
    probabilities = values.exp()
    before = probabilities.cumsum(dim=-1) - probabilities
    noisy = values + _gumbel(seeds[:, None], tokens)
    noisy.masked_fill_(before >= top_p, -torch.inf)
    return tokens.gather(1, noisy.argmax(dim=-1, keepdim=True)).squeeze(1)


def _gumbel(seeds: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return standard Gumbel noise, a hash of seed and token; the two are broadcast."""
    bits = mix(seeds + mix(tokens + STEP))
    uniform = ((shift_right(bits, 11).double() + 0.5) / 2**53).clamp_(max=1 - 2**-53)
    return -torch.log(-torch.log(uniform)).float()
