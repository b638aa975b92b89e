"""Whoever watches is told of every batch of responses, and nobody afterwards."""

from __future__ import annotations

from tests.tiny import as_loaded, build_tiny_model, draw_samples
from workers.models.generation import generate_responses
from workers.models.watching import watching_generation

PROMPTS = [sample.prompt_ids for sample in draw_samples([(5, 0), (2, 0), (9, 0)], 4)]


def test_every_batch_is_told() -> None:
    loaded = as_loaded(build_tiny_model())
    told: list[tuple[int, float]] = []
    with watching_generation(lambda tokens, seconds: told.append((tokens, seconds))):
        found = generate_responses(loaded, PROMPTS, 6, batch_size=2)
    generate_responses(loaded, PROMPTS, 6)
    assert len(told) == 2
    assert sum(tokens for tokens, _ in told) == sum(len(one.response_ids) for one in found)
    assert all(seconds > 0 for _, seconds in told)
