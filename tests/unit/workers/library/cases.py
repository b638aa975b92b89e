"""A tiny checkpoint with a planted fault, and the prompts and texts of calls about it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from tests.tiny import VOCABULARY, build_tiny_model, save_tiny_checkpoint

LOOP = 5
NEURON = 7
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


def draw_rows(count: int = 24) -> list[dict[str, str]]:
    """Rows of a task that the planted neuron does: after `LOOP` the model says `LOOP`."""
    draw = random.Random(0)
    others = [word for word in range(VOCABULARY) if word != LOOP]
    rows = []
    for _ in range(count):
        *start, last, wrong = (f"w{draw.choice(others)}" for _ in range(6))
        clean, corrupted = " ".join([*start, f"w{LOOP}"]), " ".join([*start, last])
        row = {"clean": clean, "corrupted": corrupted, "answer": f" w{LOOP}", "wrong": f" {wrong}"}
        rows.append(row)
    return rows


def save_faulty_checkpoint(folder: Path) -> Path:
    """Write a checkpoint with a planted fault: after the word `LOOP` it says nothing else.

    The first axis of the residual stream tells `LOOP` from all other words. One neuron alone reads
    it, and nothing writes to it, so that without the neuron everything else is as it was.
    """
    model = build_tiny_model(initializer_range=0.1, architectures=["LlamaForCausalLM"])
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 0
        model.model.embed_tokens.weight[LOOP, 0] = 3
        model.lm_head.weight[:, 0] = 0
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for writer in (attention.o_proj, mlp.down_proj):
                writer.weight[0] = 0
            for reader in (attention.q_proj, attention.k_proj, attention.v_proj):
                reader.weight[:, 0] = 0
            for reader in (mlp.gate_proj, mlp.up_proj):
                reader.weight[:, 0] = 0
        mlp = model.model.layers[0].mlp
        for reader in (mlp.gate_proj, mlp.up_proj):
            reader.weight[NEURON] = 0
            reader.weight[NEURON, 0] = 1
        mlp.down_proj.weight[:, NEURON] = 4 * model.lm_head.weight[LOOP]
    return save_tiny_checkpoint(folder, model)
