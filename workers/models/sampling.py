"""Draws from next-token distributions that depend on nothing but a seed, a row and a step."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from workers.models.splitmix import STEP, mix, shift_right

CANDIDATES = 1024
"""Most probable tokens looked at first; rows whose nucleus is larger are sorted whole."""


def compute_row_seed(seed: int, prompt_ids: Sequence[int], sample: int) -> int:
    """Return a signed 64-bit seed for one response to one prompt."""
    text = f"{seed}:{sample}:{','.join(map(str, prompt_ids))}"
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


class NucleusDraws(LogitsProcessor):
    """Leaves of each row's logits the one token that is drawn, for greedy decoding to take.

    The nucleus is the fewest most probable tokens whose probability, at the temperature, adds up
    to `top_p` (Holtzman et al. 2020). Of it the token with the largest log-probability plus
    Gumbel noise is taken, which draws each with its probability. The noise is a hash of the row's
    seed, the step and the token: another model that predicts the same draws the same, and one
    that predicts almost the same almost always does.
    """

    def __init__(
        self, seeds: Sequence[int], temperature: float, top_p: float, prompt_length: int
    ) -> None:
        """Draw for rows with `seeds`, whose prompts take up `prompt_length` positions."""
        self._seeds = torch.tensor(seeds, dtype=torch.int64)
        self._temperature = temperature
        self._top_p = top_p
        self._prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return `scores` `(row, vocabulary)` with everything but the drawn token at −∞."""
        step = input_ids.shape[1] - self._prompt_length
        seeds = (self._seeds + torch.tensor(STEP) * step).to(scores.device)  # wraps around
        log_probabilities = torch.log_softmax(scores.float() / self._temperature, dim=-1)
        drawn = draw_tokens(log_probabilities, seeds, self._top_p)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn[:, None], 0.0)


def draw_tokens(log_probabilities: torch.Tensor, seeds: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return one token `(row,)` of each row's nucleus, from `(row, vocabulary)` and `(row,)`."""
    count = min(CANDIDATES, log_probabilities.shape[1])
    values, tokens = log_probabilities.topk(count, dim=-1)
    drawn = _draw_sorted(values, tokens, seeds, top_p)
    is_cut = values.exp().sum(dim=-1) < top_p
    if bool(is_cut.any()):
        values, tokens = log_probabilities[is_cut].sort(dim=-1, descending=True)
        drawn[is_cut] = _draw_sorted(values, tokens, seeds[is_cut], top_p)
    return drawn


def _draw_sorted(
    values: torch.Tensor, tokens: torch.Tensor, seeds: torch.Tensor, top_p: float
) -> torch.Tensor:
    """Return the drawn tokens of rows sorted by falling log-probability."""
    probabilities = values.exp()
    before = probabilities.cumsum(dim=-1) - probabilities
    noisy = values + _gumbel(seeds[:, None], tokens)
    noisy.masked_fill_(before >= top_p, -torch.inf)
    return tokens.gather(1, noisy.argmax(dim=-1, keepdim=True)).squeeze(1)


def _gumbel(seeds: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return standard Gumbel noise that is a hash of seed and token, shaped as they broadcast."""
    bits = mix(seeds + mix(tokens + STEP))
    uniform = ((shift_right(bits, 11).double() + 0.5) / 2**53).clamp_(max=1 - 2**-53)
    return -torch.log(-torch.log(uniform)).float()
