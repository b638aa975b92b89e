"""Rows and models in which it is known what carries the answer."""

from __future__ import annotations

import torch
from torch import nn
from transformers import LlamaForCausalLM

from excise.names import CircuitMetric
from tests.tiny import VOCABULARY, as_loaded, build_tiny_model
from workers.circuits.measurement import measure_rows
from workers.circuits.tasks import Task, TaskRow

HEADS = ("model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj")
PAD = 0


def draw_task(lengths: tuple[int, ...] = (7, 7, 5, 6), seed: int = 0) -> Task:
    """Random rows that differ from the corrupted prompt in one token before the last."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> list[int]:
        return torch.randperm(VOCABULARY - 1, generator=generator)[:count].add(1).tolist()

    rows = []
    for length in lengths:
        clean = draw(length)
        corrupted = list(clean)
        corrupted[-3] = clean[-3] % (VOCABULARY - 1) + 1
        answer, wrong = draw(2)
        rows.append(TaskRow(tuple(clean), tuple(corrupted), (answer,), (wrong,)))
    return Task("drawn", CircuitMetric.LOGIT_DIFFERENCE, tuple(rows))


def turn_towards_answers(model: nn.Module, task: Task) -> Task:
    """Swap answer and wrong answer where the model prefers the wrong one."""
    values = measure_rows(as_loaded(model, pad_id=PAD), task.rows, task.metric)
    rows = [
        row
        if value > 0
        else TaskRow(row.clean_ids, row.corrupted_ids, row.wrong_ids, row.answer_ids)
        for row, value in zip(task.rows, values.tolist(), strict=True)
    ]
    return Task(task.name, task.metric, tuple(rows))


def build_model_with_one_head(module: str, head: int) -> LlamaForCausalLM:
    """A tiny model in which only one head writes anything at all."""
    model = build_tiny_model()
    width = 8
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            kept = parameter.detach()[:, head * width : (head + 1) * width].clone()
            nn.init.zeros_(parameter)
            if name == f"{module}.weight":
                with torch.no_grad():
                    parameter[:, head * width : (head + 1) * width] = kept
    return model


def build_model_with_one_neuron(module: str, neuron: int) -> LlamaForCausalLM:
    """A tiny model in which one MLP neuron writes, and attention only feeds it."""
    model = build_tiny_model()
    for name, parameter in model.named_parameters():
        if name.endswith("down_proj.weight"):
            kept = parameter.detach()[:, neuron].clone()
            nn.init.zeros_(parameter)
            if name == f"{module}.weight":
                with torch.no_grad():
                    parameter[:, neuron] = kept
    return model
