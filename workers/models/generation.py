"""Continuations of prompts, greedy or sampled, batched."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from excise.estimates.shape import ModelShape
from excise.names import ComputeDtype
from workers.domain import TokenSequence
from workers.models.loaded import LoadedModel
from workers.models.memory import find_free_memory
from workers.models.reader import Reader
from workers.models.sampling import compute_row_seed, draw_tokens
from workers.models.watching import tell_generated
from workers.progress import Advance, ignore

CPU_ROWS = 128
"""Number of responses generated together on a CPU; more make SmolLM2 no faster."""

MOST_ROWS = 1024
"""The same on a GPU. Chosen by hand; not measured."""

FREE_SHARE = 0.5
"""Largest share of a GPU's free memory that their keys, values and logits may take. Chosen by hand;
not measured."""

LOGIT_BYTES = 20
"""Bytes for each row and token of the vocabulary while a token is chosen: logits, their copy in
float32, log-probabilities, and a sort where the nucleus is large."""


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
    batch_size: int | None = None,
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
    batch_size: int | None = None,
    on_batch: Advance | None = None,
) -> list[tuple[TokenSequence, ...]]:
    """Return each prompt with `decoding.samples` continuations of at most `max_new_tokens` tokens.

    Only `decoding` decides how; the checkpoint's generation settings (penalties, beams, forced
    tokens, …) are ignored. The end-of-sequence token stops a response and is not
    part of it. What is drawn depends on `seed`, the prompt's tokens and the sample's number
    alone, and two models that predict alike draw alike (see `draw_tokens`): compared with one
    seed they differ by what was changed. A prompt is read once for all its samples in a batch.
    `batch_size` responses are written together, by default as many as `choose_rows` says;
    `on_batch` is called after each token with the responses written since, in shares of them: a
    batch may take minutes. Raises `ValueError` on an empty prompt.
    """
    if any(not prompt for prompt in prompts):
        raise ValueError("a prompt has no tokens; every prompt needs at least one")
    rows = [(index, sample) for index in range(len(prompts)) for sample in range(decoding.samples)]
    rows.sort(key=lambda row: (len(prompts[row[0]]), row))
    results: dict[tuple[int, int], TokenSequence] = {}
    longest = max(map(len, prompts), default=0) + decoding.max_new_tokens
    size = batch_size or choose_rows(loaded, longest)
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        seeds = [compute_row_seed(seed, prompts[index], sample) for index, sample in batch]
        began = time.perf_counter()
        responses = _generate_batch(
            loaded, [prompts[index] for index, _ in batch], seeds, decoding, on_batch or ignore
        )
        tell_generated(sum(map(len, responses)), time.perf_counter() - began)
        for row, response in zip(batch, responses, strict=True):
            results[row] = TokenSequence(tuple(prompts[row[0]]), tuple(response))
    return [
        tuple(results[index, sample] for sample in range(decoding.samples))
        for index in range(len(prompts))
    ]


def choose_rows(loaded: LoadedModel, longest: int) -> int:
    """Return how many rows of at most `longest` tokens are written together on the device."""
    if loaded.device.type == "cpu":
        return CPU_ROWS
    config = loaded.model.config.to_dict()
    return fit_rows(config, loaded.model.dtype, longest, find_free_memory(loaded.device))


def fit_rows(config: Mapping[str, Any], dtype: torch.dtype, longest: int, free: int) -> int:
    """Return how many rows of `longest` tokens fit into `FREE_SHARE` of `free` bytes.

    At least `CPU_ROWS`, at most `MOST_ROWS`. `config` is a model's config.json.
    """
    shape = ModelShape.of(config)
    cache = shape.count_cache_bytes(longest, ComputeDtype(str(dtype).removeprefix("torch.")))
    needed = cache + shape.vocabulary * LOGIT_BYTES
    return min(max(CPU_ROWS, int(FREE_SHARE * free / needed)), MOST_ROWS)


def _generate_batch(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    decoding: Decoding,
    advance: Advance,
) -> list[list[int]]:
    """Return a response to each prompt. Responses that have ended are computed no further."""
    responses: list[list[int]] = [[] for _ in prompts]
    ends = _find_end_tokens(loaded)
    writing = list(range(len(prompts)))
    row_seeds = torch.tensor(seeds, dtype=torch.int64, device=loaded.device)
    reader = Reader(loaded)
    logits = reader.read_prompts(prompts)
    for step in range(decoding.max_new_tokens):
        tokens = _choose(logits, row_seeds, step, decoding)
        chosen = tokens.tolist()
        kept = [row for row, token in enumerate(chosen) if token not in ends]
        for row in kept:
            responses[writing[row]].append(chosen[row])
        unwritten = (len(writing) - len(kept)) * (decoding.max_new_tokens - step - 1)
        advance((len(writing) + unwritten) / decoding.max_new_tokens)
        if not kept or step == decoding.max_new_tokens - 1:
            break
        if len(kept) < len(writing):
            rows = torch.tensor(kept)
            reader.keep(rows)
            tokens, row_seeds = tokens[rows], row_seeds[rows]
            writing = [writing[row] for row in kept]
        logits = reader.read(tokens)
    return responses


def _choose(
    logits: torch.Tensor, seeds: torch.Tensor, step: int, decoding: Decoding
) -> torch.Tensor:
    """Return each row's next token, `(row,)`, from the logits `(row, vocabulary)`."""
    if decoding.temperature == 0:
        return logits.argmax(dim=-1)
    return draw_tokens(logits, seeds, step, decoding.temperature, decoding.top_p)


def _find_end_tokens(loaded: LoadedModel) -> frozenset[int]:
    """Return the tokens that end a response: the checkpoint's settings name them, or its tokenizer.

    Servers end answers at the tokenizer's `<eos>`, too; many fine-tunes name it there alone.
    """
    config = loaded.model.generation_config
    ends = None if config is None else config.eos_token_id
    if ends is None:
        ends = loaded.tokenizer.eos_token_id
    if ends is None:
        return frozenset()
    return frozenset([ends] if isinstance(ends, int) else ends)
