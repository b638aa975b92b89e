"""Continuations of prompts, greedy or sampled, batched."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from workers.domain import TokenSequence
from workers.models.loaded import LoadedModel
from workers.models.sampling import NucleusDraws, compute_row_seed
from workers.models.watching import tell_generated
from workers.progress import Advance


@dataclass(frozen=True)
class Decoding:
    """How responses are drawn from the model's predictions."""

    max_new_tokens: int
    samples: int = 1
    """Responses to each prompt."""
    temperature: float = 0.0
    """Divides the logits; 0 takes the most probable token every time (greedy)."""
    top_p: float = 1.0
    """Only the fewest most probable tokens that hold this much probability are drawn from."""

    def __post_init__(self) -> None:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError("greedy responses are all the same; one sample, or a temperature > 0")


def generate_responses(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int = 128,
    on_batch: Advance | None = None,
) -> list[TokenSequence]:
    """Return each prompt with its greedy continuation, see `generate_samples`."""
    decoding = Decoding(max_new_tokens)
    samples = generate_samples(loaded, prompts, decoding, batch_size=batch_size, on_batch=on_batch)
    return [sequence for (sequence,) in samples]


@torch.inference_mode()
def generate_samples(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    seed: int = 0,
    batch_size: int = 128,
    on_batch: Advance | None = None,
) -> list[tuple[TokenSequence, ...]]:
    """Return each prompt with `decoding.samples` continuations of at most `max_new_tokens` tokens.

    Nothing but `decoding` counts, whatever the checkpoint's generation settings ask for
    (penalties, beams, forced tokens, …). The end-of-sequence token stops a response and is not
    part of it. What is drawn depends on `seed`, the prompt's tokens and the sample's number
    alone, and two models that predict alike draw alike (see `NucleusDraws`): compared with one
    seed they differ by what was changed. `on_batch` is called with the number of responses of
    each batch. Raises `ValueError` on an empty prompt.
    """
    if any(not prompt for prompt in prompts):
        raise ValueError("a prompt has no tokens; every prompt needs at least one")
    rows = [(index, sample) for index in range(len(prompts)) for sample in range(decoding.samples)]
    rows.sort(key=lambda row: (len(prompts[row[0]]), row))
    results: dict[tuple[int, int], TokenSequence] = {}
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        seeds = [compute_row_seed(seed, prompts[index], sample) for index, sample in batch]
        began = time.perf_counter()
        responses = _generate_batch(loaded, [prompts[index] for index, _ in batch], seeds, decoding)
        tell_generated(sum(map(len, responses)), time.perf_counter() - began)
        for row, response in zip(batch, responses, strict=True):
            results[row] = TokenSequence(tuple(prompts[row[0]]), tuple(response))
        if on_batch is not None:
            on_batch(len(batch))
    return [
        tuple(results[index, sample] for sample in range(decoding.samples))
        for index in range(len(prompts))
    ]


def _generate_batch(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    decoding: Decoding,
) -> list[list[int]]:
    longest = max(len(prompt) for prompt in prompts)
    input_ids = torch.full((len(prompts), longest), loaded.pad_id, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        attention_mask[row, longest - len(prompt) :] = 1
    ends = _end_token_ids(loaded.model)
    greedy = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=sorted(ends) or None,
        pad_token_id=loaded.pad_id,
    )
    draws = LogitsProcessorList()
    if decoding.temperature > 0:
        draws.append(NucleusDraws(seeds, decoding.temperature, decoding.top_p, longest))
    model: Any = loaded.model  # `generate` is mixed into the classes of causal models alone
    with _generation_config(model, greedy):
        output = model.generate(
            input_ids=input_ids.to(loaded.device),
            attention_mask=attention_mask.to(loaded.device),
            generation_config=greedy,
            logits_processor=draws,
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
