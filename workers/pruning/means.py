"""Mean activations, which may replace a pruned neuron or head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from workers.domain import TokenSequence
from workers.models.batches import build_batches
from workers.models.hooks import InputHook, hooked
from workers.models.loaded import LoadedModel

BATCH_TOKENS = 2048
"""Padded tokens per batch. Chosen by hand; affects time and memory only."""


@torch.inference_mode()
def compute_mean_inputs(
    loaded: LoadedModel,
    modules: Mapping[str, nn.Module],
    samples: Sequence[TokenSequence],
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> dict[str, torch.Tensor]:
    """Return module → mean over tokens of each input feature, float32 `(feature,)` on the CPU.

    `modules` are the output projections that neurons or heads feed. Raises `ValueError` if there
    are no samples.
    """
    if not samples:
        raise ValueError("mean activations need at least one sample")
    sums: dict[str, torch.Tensor] = {}
    tokens = 0
    for batch in build_batches(samples, batch_tokens, loaded.pad_id):
        placed = batch.to(loaded.device)
        hooks = (
            InputHook(module, partial(_add_up, sums, name, placed.is_token))
            for name, module in modules.items()
        )
        with hooked(hooks):
            loaded.run(placed.token_ids)
        tokens += int(batch.is_token.sum())
    return {name: (total / tokens).cpu() for name, total in sums.items()}


def _add_up(
    sums: dict[str, torch.Tensor],
    name: str,
    is_token: torch.Tensor,
    _module: nn.Module,
    inputs: tuple[Any, ...],
) -> None:
    values = inputs[0]
    total = values[is_token.to(values.device)].float().sum(dim=0)
    sums[name] = sums[name] + total if name in sums else total
