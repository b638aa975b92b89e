"""Tiny checkpoints with a planted fault, after one word they say nothing else, and its task."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import torch

from tests.tiny import VOCABULARY, build_tiny_model, save_tiny_checkpoint

LOOP = 5
"""The word after which, and which, a faulty checkpoint says."""
FAULTY_NEURON = 7
"""Of the first layer."""


def build_faulty_model(folder: Path, granularity: str) -> Path:
    """A checkpoint that says nothing but `LOOP` after it, for one neuron's weights or one head.

    The first axis of the residual stream tells `LOOP` from all other words; only the faulty
    part reads it, and nothing writes to it.
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
        says_loop = 4 * model.lm_head.weight[LOOP]
        first = model.model.layers[0]
        if granularity == "head":
            first.self_attn.v_proj.weight[0] = 0
            first.self_attn.v_proj.weight[0, 0] = 4
            first.self_attn.o_proj.weight[:, 0] = says_loop
        else:
            for reader in (first.mlp.gate_proj, first.mlp.up_proj):
                reader.weight[FAULTY_NEURON] = 0
                reader.weight[FAULTY_NEURON, 0] = 1
            first.mlp.down_proj.weight[:, FAULTY_NEURON] = says_loop
    return save_tiny_checkpoint(folder, model)


SAID = (11, 12, 13, 14)
"""The words that a checkpoint of `build_saying_model` says one after another, after `LOOP`."""


def build_saying_model(folder: Path) -> Path:
    """A checkpoint that says `SAID` after `LOOP`: neuron n of the first layer says the n-th word.

    Each reads an axis of the residual stream that only the word before its own is on.
    """
    model = build_tiny_model(initializer_range=0.1, architectures=["LlamaForCausalLM"])
    axes = slice(0, len(SAID))
    with torch.no_grad():
        model.model.embed_tokens.weight[:, axes] = 0
        model.lm_head.weight[:, axes] = 0
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for writer in (attention.o_proj, mlp.down_proj):
                writer.weight[axes] = 0
            for reader in (attention.q_proj, attention.k_proj, attention.v_proj):
                reader.weight[:, axes] = 0
            for reader in (mlp.gate_proj, mlp.up_proj):
                reader.weight[:, axes] = 0
        mlp = model.model.layers[0].mlp
        for axis, (word, said) in enumerate(pairwise((LOOP, *SAID))):
            model.model.embed_tokens.weight[word, axis] = 3
            for reader in (mlp.gate_proj, mlp.up_proj):
                reader.weight[axis] = 0
                reader.weight[axis, axis] = 1
            mlp.down_proj.weight[:, axis] = 4 * model.lm_head.weight[said]
    return save_tiny_checkpoint(folder, model)


def draw_rows(count: int = 24) -> list[dict[str, str]]:
    """Rows of a task that one neuron does: after `LOOP` the model says `LOOP`."""
    draw = random.Random(0)
    others = [word for word in range(VOCABULARY) if word != LOOP]
    rows = []
    for _ in range(count):
        *start, last, wrong = (f"w{draw.choice(others)}" for _ in range(6))
        clean, corrupted = " ".join([*start, f"w{LOOP}"]), " ".join([*start, last])
        row = {"clean": clean, "corrupted": corrupted, "answer": f" w{LOOP}", "wrong": f" {wrong}"}
        rows.append(row)
    return rows
