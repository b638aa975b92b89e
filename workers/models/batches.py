"""Batches of token sequences, padded on the right so that causal attention never sees a pad."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from workers.domain import TokenSequence

NO_CONTRAST = -1
"""Placeholder for tokens that are not explained against another one."""


@dataclass(frozen=True)
class TokenBatch:
    """One right-padded batch; every tensor is `(sample, token)`.

    In a causal model no real token attends to a pad on its right. So the batch needs no attention
    mask, and each sample gets the same results as alone.
    """

    token_ids: torch.Tensor
    is_token: torch.Tensor
    """True at real tokens."""
    is_explained: torch.Tensor
    """True at response tokens to be explained; a sample without a response has none."""
    contrast_ids: torch.Tensor
    """At response tokens, the token each is explained against; `NO_CONTRAST` elsewhere."""
    sample_indices: tuple[int, ...]
    """Position of each row among all samples, those of other batches and shards included."""

    def to(self, device: torch.device) -> TokenBatch:
        """Return the batch on `device`."""
        return TokenBatch(
            self.token_ids.to(device),
            self.is_token.to(device),
            self.is_explained.to(device),
            self.contrast_ids.to(device),
            self.sample_indices,
        )

    def halves(self) -> tuple[TokenBatch, TokenBatch]:
        """Return the first and second half of the samples, each padded only to its longest sample.

        Raises `ValueError` for a batch of one sample.
        """
        count = len(self.sample_indices)
        if count < 2:
            raise ValueError("one sample cannot be halved; shorten it")
        return self._rows(0, count // 2), self._rows(count // 2, count)

    def _rows(self, start: int, stop: int) -> TokenBatch:
        longest = int(self.is_token[start:stop].sum(dim=1).max())
        return TokenBatch(
            self.token_ids[start:stop, :longest],
            self.is_token[start:stop, :longest],
            self.is_explained[start:stop, :longest],
            self.contrast_ids[start:stop, :longest],
            self.sample_indices[start:stop],
        )


def build_batches(
    samples: Sequence[TokenSequence], batch_tokens: int, pad_id: int, first_index: int = 0
) -> Iterator[TokenBatch]:
    """Yield batches of at most `batch_tokens` padded tokens (but at least one sample), by length.

    Samples of similar length share a batch to save padding; the order depends on the input only.
    `first_index` is the position of this shard's first sample among all samples. Raises
    `ValueError` for an empty sample, and for one with flags or contrasts for only some of its
    response tokens.
    """
    for index, sample in enumerate(samples):
        if not sample.token_ids:
            raise ValueError(f"sample {index} has no tokens; drop empty samples first")
        if len(sample.is_explained) not in (0, len(sample.response_ids)):
            raise ValueError(f"sample {index} needs a flag for every response token, or none")
        if len(sample.contrast_ids) not in (0, len(sample.response_ids)):
            raise ValueError(f"sample {index} needs a contrast for every response token, or none")
    order = sorted(range(len(samples)), key=lambda i: (-len(samples[i].token_ids), i))
    start = 0
    while start < len(order):
        longest = len(samples[order[start]].token_ids)
        size = max(1, batch_tokens // longest)
        yield _pad(samples, order[start : start + size], longest, pad_id, first_index)
        start += size


def _pad(
    samples: Sequence[TokenSequence],
    indices: Sequence[int],
    longest: int,
    pad_id: int,
    first_index: int,
) -> TokenBatch:
    shape = (len(indices), longest)
    token_ids = torch.full(shape, pad_id, dtype=torch.long)
    is_token = torch.zeros(shape, dtype=torch.bool)
    is_explained = torch.zeros(shape, dtype=torch.bool)
    contrast_ids = torch.full(shape, NO_CONTRAST, dtype=torch.long)
    for row, index in enumerate(indices):
        sample = samples[index]
        ids = sample.token_ids
        response = slice(len(sample.prompt_ids), len(ids))
        token_ids[row, : len(ids)] = torch.tensor(ids)
        is_token[row, : len(ids)] = True
        flags = sample.is_explained or (True,) * len(sample.response_ids)
        is_explained[row, response] = torch.tensor(flags, dtype=torch.bool)
        if sample.contrast_ids:
            contrast_ids[row, response] = torch.tensor(sample.contrast_ids)
    numbers = tuple(first_index + index for index in indices)
    return TokenBatch(token_ids, is_token, is_explained, contrast_ids, numbers)
