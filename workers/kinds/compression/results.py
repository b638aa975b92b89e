"""What the stages of a compression pass to one another: JSON documents and packed prune masks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors
from torch import nn

from excise.names import Granularity
from excise.reports.compression import TaskScore
from workers.correction.results import StageDocument
from workers.domain import Selection
from workers.families import linear_weight


class Measured(StageDocument):
    """The model's perplexity on the corpus and its accuracy on the zero-shot tasks."""

    perplexity: float
    tokens: int
    tasks: dict[str, TaskScore]


class PreparedCompression(StageDocument):
    """Calibration samples, corpus windows, and the base model's figures."""

    model_sha256: str
    calibration: tuple[tuple[int, ...], ...]
    corpus: tuple[tuple[int, ...], ...]
    before: Measured


def pack_masks(modules: Mapping[str, nn.Module]) -> bytes:
    """Return a mask of the zero weights of each module as safetensors bytes, one bit per weight."""
    return save_safetensors(
        {
            name: np.packbits((linear_weight(module).detach() == 0).cpu().numpy().ravel())
            for name, module in modules.items()
        }
    )


def apply_masks(data: bytes, modules: Mapping[str, nn.Module]) -> None:
    """Set to zero, in place, the weights that were zero when `pack_masks` was called."""
    for name, prune_mask in _unpack(data, modules):
        linear_weight(modules[name]).detach().masked_fill_(prune_mask, 0)


def select_masked(data: bytes, modules: Mapping[str, nn.Module]) -> Selection:
    """Return the weights that were zero when `pack_masks` was called as a selection."""
    found = {
        name: prune_mask.flatten().nonzero().flatten()
        for name, prune_mask in _unpack(data, modules)
    }
    chosen = {name: indices.cpu() for name, indices in found.items() if len(indices)}
    return Selection(Granularity.WEIGHT, chosen)


def _unpack(data: bytes, modules: Mapping[str, nn.Module]) -> list[tuple[str, torch.Tensor]]:
    packed = load_safetensors(data)
    unpacked = []
    for name, module in modules.items():
        weight = linear_weight(module)
        bits = np.unpackbits(packed[name], count=weight.numel()).astype(bool)
        unpacked.append((name, torch.from_numpy(bits).view(weight.shape).to(weight.device)))
    return unpacked
