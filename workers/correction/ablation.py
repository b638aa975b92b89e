"""Mean activations on general text: what a pruned neuron or head may leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn

from workers.batches import build_batches
from workers.domain import Granularity, TokenSequence
from workers.families import Family, find_components

BATCH_TOKENS = 2048


@torch.inference_mode()
def compute_mean_activations(
    model: nn.Module,
    family: Family,
    granularity: Granularity,
    samples: Sequence[TokenSequence],
    pad_id: int,
) -> dict[str, torch.Tensor]:
    """Return module → mean over tokens of every input feature, float32 `(feature,)` on the CPU.

    The modules are the output projections that neurons or heads of `granularity` feed. Raises
    `ValueError` without samples.
    """
    if not samples:
        raise ValueError("mean activations need at least one sample")
    modules = find_components(model, family, granularity)
    sums: dict[str, torch.Tensor] = {}
    tokens = 0
    for batch in build_batches(samples, BATCH_TOKENS, pad_id):
        placed = batch.to(next(model.parameters()).device)
        with ExitStack() as hooks:
            for name, module in modules.items():
                handle = module.register_forward_pre_hook(
                    partial(_add_up, sums, name, placed.is_token)
                )
                hooks.callback(handle.remove)
            model.get_submodule(family.backbone)(input_ids=placed.token_ids, use_cache=False)
        tokens += int(batch.is_token.sum())
    return {name: (total / tokens).cpu() for name, total in sums.items()}


def _add_up(
    sums: dict[str, torch.Tensor],
    name: str,
    is_token: torch.Tensor,
    _module: nn.Module,
    inputs: tuple[Any, ...],
) -> None:
    total = inputs[0][is_token].float().sum(dim=0)
    sums[name] = sums[name] + total if name in sums else total
