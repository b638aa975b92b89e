"""Tiny checkpoints with pruned neurons or weights, and what the pruned models say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from excise.names import Granularity
from tests.tiny import select_neurons
from tests.tiny_families import build_family_model
from workers.domain import Selection
from workers.families import find_components, find_family, find_mlp_outputs, named_weight
from workers.pruning.patch import Patch, build_patch

NEURONS = ([0, 7, 47], [5])
"""Pruned neurons of the two layers; the second is padded to the rank of the first."""
PROMPTS = ((3, 1, 4, 1, 5), (9, 2), (6, 5, 3, 5, 8, 9, 7), (11,), (100, 99, 98))


@dataclass(frozen=True)
class Pruned:
    """A base model, its folder, and a correction of it."""

    model: PreTrainedModel
    folder: Path
    selection: Selection
    patch: Patch


def build_pruned(
    name: str,
    folder: Path,
    neurons: tuple[list[int], ...] = NEURONS,
    dtype: torch.dtype = torch.float32,
    **settings: Any,
) -> Pruned:
    """A tiny model of a family, saved, with `neurons` of its first layers to remove."""
    model = build_family_model(name).to(dtype)
    modules = find_mlp_outputs(model, find_family(model))
    chosen = dict(zip(modules, neurons, strict=False))
    selection = select_neurons({module: found for module, found in chosen.items() if found})
    model.save_pretrained(folder)
    return Pruned(model, folder, selection, build_patch(folder, selection, **settings))


def build_pruned_weights(
    name: str,
    folder: Path,
    most_lines: int = 3,
    dtype: torch.dtype = torch.float32,
    **settings: Any,
) -> Pruned:
    """A tiny model of a family, saved, with weights of every projection to remove.

    They lie on a row and two columns of each matrix, or on fewer where fewer lines are allowed,
    and every second matrix has one line less.
    """
    model = build_family_model(name)
    modules = find_components(model, find_family(model), Granularity.WEIGHT)
    indices = {}
    for number, (module, holder) in enumerate(modules.items()):
        mask = torch.zeros(named_weight(holder, module).shape, dtype=torch.bool)
        mask[..., number % 5, ::2] = True
        if most_lines > 1:
            mask[..., 1::3, 7] = True
        if most_lines > 2 and number % 2:
            mask[..., :, 11] = True
        indices[module] = mask.flatten().nonzero().flatten()
    selection = Selection(Granularity.WEIGHT, indices)
    model.save_pretrained(folder)
    return Pruned(model, folder, selection, build_patch(folder, selection, **settings))


@torch.inference_mode()
def continue_slowly(
    model: Any, prompt: tuple[int, ...], count: int
) -> tuple[list[int], list[float]]:
    """The most probable continuation, one prompt alone, no cache; its log-probabilities."""
    ids, logprobs = list(prompt), []
    for _ in range(count):
        row = model(input_ids=torch.tensor([ids])).logits[0, -1].float().log_softmax(dim=-1)
        logprobs.append(float(row.max()))
        ids.append(int(row.argmax()))
    return ids[len(prompt) :], logprobs
