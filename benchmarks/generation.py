"""Sampling of responses compared with the library's `generate`, and with the attainable limit.

    python benchmarks/generation.py --model FOLDER [--prompts 64] [--samples 5] [--new-tokens 30]

The library's way reads each prompt once per sample, and continues to compute ended rows until the
last row ends. It gets the same draws from a logits processor that keeps only the token chosen by
`draw_tokens`. The limit is a forward pass over the tokens of the responses alone, with the same
number of rows at a time and no cache, prompts or draws: no way of generating token by token can be
faster on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from workers.domain import TokenSequence
from workers.models.checkpoints import load_checkpoint
from workers.models.generation import Decoding, generate_samples
from workers.models.loaded import LoadedModel
from workers.models.sampling import compute_row_seed, draw_tokens

ROWS = 128
"""Number of responses at a time: as many as `generate_samples` generates together on a CPU."""

DATA = Path(os.environ.get("EXCISE_DATA", Path(__file__).parents[2] / "shared" / "data"))


class Draws(LogitsProcessor):
    """Keeps only the drawn token in each row's logits."""

    def __init__(self, seeds: Sequence[int], decoding: Decoding, prompt_length: int) -> None:
        self._seeds = torch.tensor(seeds)
        self._decoding = decoding
        self._prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return `scores` `(row, vocabulary)` with everything but the drawn token at −∞."""
        step = input_ids.shape[1] - self._prompt_length
        own = self._decoding
        drawn = draw_tokens(scores, self._seeds, step, own.temperature, own.top_p)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn[:, None], 0.0)


@torch.inference_mode()
def generate_the_library_s_way(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], decoding: Decoding, seed: int
) -> dict[tuple[int, int], tuple[int, ...]]:
    """Return (prompt, sample) → response."""
    rows = [(index, number) for index in range(len(prompts)) for number in range(decoding.samples)]
    rows.sort(key=lambda row: (len(prompts[row[0]]), row))
    end = loaded.model.generation_config.eos_token_id
    found: dict[tuple[int, int], tuple[int, ...]] = {}
    for start in range(0, len(rows), ROWS):
        batch = rows[start : start + ROWS]
        longest = max(len(prompts[index]) for index, _ in batch)
        token_ids = torch.full((len(batch), longest), loaded.pad_id)
        is_token = torch.zeros_like(token_ids)
        for row, (index, _) in enumerate(batch):
            token_ids[row, longest - len(prompts[index]) :] = torch.tensor(prompts[index])
            is_token[row, longest - len(prompts[index]) :] = 1
        seeds = [compute_row_seed(seed, prompts[index], number) for index, number in batch]
        output = loaded.model.generate(
            input_ids=token_ids,
            attention_mask=is_token,
            generation_config=GenerationConfig(
                max_new_tokens=decoding.max_new_tokens, eos_token_id=end, pad_token_id=0
            ),
            logits_processor=LogitsProcessorList([Draws(seeds, decoding, longest)]),
        )
        for row, ids in zip(batch, output[:, longest:].tolist(), strict=True):
            found[row] = tuple(ids[: ids.index(end)] if end in ids else ids)
    return found


@torch.inference_mode()
def read_at_once(loaded: LoadedModel, responses: Sequence[TokenSequence]) -> None:
    """Run the model over as many tokens as were generated, `ROWS` at a time."""
    tokens = [token for response in responses for token in response.response_ids]
    for start in range(0, len(tokens), ROWS):
        rows = torch.tensor(tokens[start : start + ROWS])[:, None]
        loaded.model(input_ids=rows, use_cache=False)


def main() -> None:
    """Print tokens per second of all three, the ratios, and how many responses agree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=30)
    arguments = parser.parse_args()
    loaded = load_checkpoint(arguments.model)
    lines = (DATA / "real_toxicity_prompts.jsonl").read_text().splitlines()
    texts = [json.loads(line)["prompt"] for line in lines[: arguments.prompts]]
    prompts = [loaded.tokenizer.encode(text) for text in texts]
    decoding = Decoding(arguments.new_tokens, arguments.samples, temperature=1.0, top_p=0.9)
    generate_samples(loaded, prompts[:8], decoding)  # warm-up
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    expected = generate_the_library_s_way(loaded, prompts, decoding, 1)
    seconds["library"] = time.perf_counter() - start
    start = time.perf_counter()
    found = generate_samples(loaded, prompts, decoding, seed=1)
    seconds["excise"] = time.perf_counter() - start
    responses = [response for samples in found for response in samples]
    start = time.perf_counter()
    read_at_once(loaded, responses)
    seconds["limit"] = time.perf_counter() - start
    tokens = sum(len(response.response_ids) for response in responses)
    same = sum(
        response.response_ids == expected[index, number]
        for index, samples in enumerate(found)
        for number, response in enumerate(samples)
    )
    for name, value in seconds.items():
        print(f"{name:8} {value:7.1f} s  {tokens / value:6.0f} tokens/s")
    print(f"excise over library: {seconds['library'] / seconds['excise']:.2f} times as fast")
    print(f"excise over limit: {seconds['limit'] / seconds['excise']:.2f}")
    print(f"same responses: {same} of {len(responses)}")


if __name__ == "__main__":
    main()
