"""Applying a patch to a loaded base model, temporarily and in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import nn

from workers.pruning.components import pruned
from workers.pruning.patch import Patch
from workers.pruning.patch_building import require_stored
from workers.pruning.safetensors_files import list_tensors
from workers.pruning.stored_matrix import to_tensor


@contextmanager
def corrected(model: nn.Module, patch: Patch, base: Path) -> Iterator[None]:
    """Within the context, `model`, which was loaded from folder `base`, is the corrected model.

    Parameters are restored bit for bit on exit. Raises `ValueError` for a module that the model
    does not have, `PatchError` for a bias that the folder does not hold.
    """
    head_dim, scale = patch.layout.head_dim, patch.scale
    with pruned(model, patch.selection, head_dim=head_dim, scale=scale), ExitStack() as undo:
        for bias, values in _read_biases(model, patch, base):
            undo.callback(bias.copy_, bias.clone())
            bias.copy_(values)
        yield


def _read_biases(
    model: nn.Module, patch: Patch, base: Path
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield each bias that the mean ablation changes, with its corrected values."""
    if not patch.biases:
        return
    stored = list_tensors(base)
    for name, change in patch.weights.items():
        bias_name = f"{name.removesuffix('.weight')}.bias"
        values = patch.biases[bias_name].corrected
        bias = model.get_submodule(change.module).get_parameter("bias").detach()
        yield bias, to_tensor(values, require_stored(stored, bias_name).dtype)
