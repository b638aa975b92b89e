"""The settings, prompts and texts of calls about a checkpoint with a planted fault."""

from __future__ import annotations

import random
from typing import Any

from tests.faulty import LOOP
from tests.tiny import VOCABULARY

MODULE = "model.layers.0.mlp.down_proj"
SETTINGS: dict[str, Any] = {
    "attribution": {"granularity": "neuron"},
    "search": {"amounts": [1, 2]},
    "budget": {"perplexity_increase": 10.0, "kl_mean": 10.0},
    # A random model's own text is nothing that could become more uniform.
    "responses": {"max_uniqueness_fall": None, "max_diversity_fall": None},
    "gates": {"abilities": None},
}
"""Fields of a correction's spec with which the fault is found, and every gate is met."""


def draw_texts(count: int, words: int, seed: int, end: str = "") -> list[str]:
    """Texts of random words of the tiny vocabulary, all but `LOOP`."""
    draw = random.Random(seed)
    others = [word for word in range(VOCABULARY) if word != LOOP]
    return [" ".join(f"w{draw.choice(others)}" for _ in range(words)) + end for _ in range(count)]


UNDESIRED = draw_texts(24, 6, seed=1, end=f" w{LOOP}")
REFERENCE = draw_texts(60, 30, seed=2)
DECODING = {"max_new_tokens": 16}
