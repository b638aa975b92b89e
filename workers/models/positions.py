"""How many positions' logits are held in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch

LOGITS_AT_ONCE = 1 << 24
"""64 MiB of float32, over all copies. 512 positions of SmolLM2, as before, took 480 MiB at once
where two models are compared; of a vocabulary of 262,000 they would have taken 3 GiB."""

GPU_LOGITS_AT_ONCE = 1 << 28
"""1 GiB of float32: thousands of positions keep a GPU busy. Chosen by hand; not measured."""

LEAST_POSITIONS = 64
"""With fewer, reading the head takes longer than multiplying with it: on one core, 256 positions
of a vocabulary of 262,000 took 1.33 s 256 at a time, 1.55 s with 64 and 1.86 s with 32."""

LOSS_COPIES = 2
"""Copies of its logits that a model's losses take: the logits and their log-probabilities."""


def split_positions(
    positions: int, head: torch.Tensor, copies: int = LOSS_COPIES
) -> Iterator[slice]:
    """Yield consecutive slices of `positions`, as long as their logits by `head` allow.

    `head` is `(vocabulary, hidden)`; `copies` of a position's logits are held at once.
    """
    most = LOGITS_AT_ONCE if head.device.type == "cpu" else GPU_LOGITS_AT_ONCE
    step = max(LEAST_POSITIONS, most // (copies * len(head)))
    for start in range(0, positions, step):
        yield slice(start, start + step)
