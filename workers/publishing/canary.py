"""Canaries: a model's responses to a few prompts, token by token, to compare its server with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from workers.progress import Advance

BATCH = 8


@dataclass(frozen=True)
class GreedyTrace:
    """A greedy continuation; every tuple has one entry per generated token."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Natural logarithm of the token's probability."""
    margins: tuple[float, ...]
    """Log-probability of the token minus that of the runner-up."""


@dataclass(frozen=True)
class TracePair:
    """The greedy continuations of one prompt by the base and by the corrected model."""

    base: GreedyTrace
    corrected: GreedyTrace

    @property
    def is_telling(self) -> bool:
        """Whether the two continuations differ."""
        return self.base.token_ids != self.corrected.token_ids


@torch.inference_mode()
def trace_greedy(
    model: Any, prompts: Sequence[Sequence[int]], new_tokens: int, advance: Advance
) -> list[GreedyTrace]:
    """Return the greedy continuation of each prompt by exactly `new_tokens` tokens.

    It does not stop at an end-of-sequence token, and the checkpoint's generation settings are
    ignored. Prompts are padded on the left and keep the positions that they have without padding.
    Raises `ValueError` for an empty prompt.
    """
    if any(not prompt for prompt in prompts):
        raise ValueError("a prompt has no tokens; every prompt needs at least one")
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
    traces: dict[int, GreedyTrace] = {}
    for start in range(0, len(order), BATCH):
        indices = order[start : start + BATCH]
        batch = [tuple(prompts[index]) for index in indices]
        traces.update(zip(indices, _trace_batch(model, batch, new_tokens), strict=True))
        advance(len(batch))
    return [traces[index] for index in range(len(prompts))]


def choose_pairs(
    pairs: Sequence[TracePair], count: int, is_preferred: Callable[[int], bool] = lambda _: False
) -> list[TracePair]:
    """Return `count` of the pairs, or all if there are fewer, in their original order.

    Pairs in which the models differ are taken first, and among these the ones whose position
    `is_preferred`. Up to a quarter of the pairs are ones in which the models agree, because a
    correction must also leave other responses alone.
    """
    telling = [index for index, pair in enumerate(pairs) if pair.is_telling]
    telling.sort(key=lambda index: (not is_preferred(index), index))
    others = [index for index, pair in enumerate(pairs) if not pair.is_telling]
    agreeing = min(len(others), max(count // 4, count - len(telling)))
    chosen = telling[: count - agreeing] + others[:agreeing]
    return [pairs[index] for index in sorted(chosen)]


def _trace_batch(
    model: Any, prompts: Sequence[tuple[int, ...]], new_tokens: int
) -> list[GreedyTrace]:
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    cache, steps = None, []
    for _ in range(new_tokens):
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            cache=cache,
            use_cache=True,
        )
        cache = output.cache
        best = output.logits[:, -1].float().log_softmax(dim=-1).topk(2, dim=-1)
        steps.append((best.indices[:, 0].cpu(), best.values.cpu()))
        ids = best.indices[:, :1]
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
    tokens = torch.stack([token for token, _ in steps], dim=1)
    values = torch.stack([value for _, value in steps], dim=1)
    return [
        GreedyTrace(
            prompt,
            tuple(tokens[row].tolist()),
            tuple(values[row, :, 0].tolist()),
            tuple((values[row, :, 0] - values[row, :, 1]).tolist()),
        )
        for row, prompt in enumerate(prompts)
    ]
