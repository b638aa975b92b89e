"""Greedy continuations of prompts, batched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig

from workers.domain import TokenSequence
from workers.progress import Advance


@torch.inference_mode()
def generate_responses(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    pad_id: int,
    batch_size: int = 128,
    on_batch: Advance | None = None,
) -> list[TokenSequence]:
    """Return each prompt with its greedy continuation of at most `max_new_tokens` tokens.

    Each token is the most probable one, whatever else the checkpoint's generation settings ask
    for (penalties, beams, forced tokens, …). The end-of-sequence token stops a response and is
    not part of it. The batches, and so the result, depend only on the prompts' order and
    lengths. Raises `ValueError` on an empty prompt.
    """
    if any(not prompt for prompt in prompts):
        raise ValueError("a prompt has no tokens; every prompt needs at least one")
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
    results: dict[int, TokenSequence] = {}
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        responses = _generate_batch(
            model, [prompts[index] for index in indices], max_new_tokens, pad_id
        )
        for index, response in zip(indices, responses, strict=True):
            results[index] = TokenSequence(tuple(prompts[index]), tuple(response))
        if on_batch is not None:
            on_batch(len(indices))
    return [results[index] for index in range(len(prompts))]


def _generate_batch(
    model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, pad_id: int
) -> list[list[int]]:
    longest = max(len(prompt) for prompt in prompts)
    input_ids = torch.full((len(prompts), longest), pad_id, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        attention_mask[row, longest - len(prompt) :] = 1
    ends = _end_token_ids(model)
    greedy = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=sorted(ends) or None,
        pad_token_id=pad_id,
    )
    with _generation_config(model, greedy):
        output = model.generate(
            input_ids=input_ids.to(model.device),
            attention_mask=attention_mask.to(model.device),
            generation_config=greedy,
        )
    return [_cut_at_end(row[longest:].tolist(), ends) for row in output]


@contextmanager
def _generation_config(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Within the context the model has no generation settings but `config`.

    Passing a configuration to `generate` is not enough: what it leaves unset is filled from the
    model's own.
    """
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own


def _end_token_ids(model: Any) -> frozenset[int]:
    ends = model.generation_config.eos_token_id
    if ends is None:
        return frozenset()
    return frozenset([ends] if isinstance(ends, int) else ends)


def _cut_at_end(ids: list[int], ends: frozenset[int]) -> list[int]:
    for position, token in enumerate(ids):
        if token in ends:
            return ids[:position]
    return ids
