"""A patch as an exactly equivalent PEFT LoRA adapter.

The change that a patch makes to the weight of a linear module is a product of two thin matrices;
its rank is the number of lines (rows or columns) on which the pruned entries lie. Removing the
input features J adds −W[:, J]·E_J: `lora_A` picks the features, `lora_B` subtracts their columns.
Removing single weights adds Σ eᵢ ⊗ ΔW[i, :] over rows i and Σ ΔW[:, j] ⊗ eⱼ over columns j.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save as save_safetensors

from workers.pruning.lines import find_cover
from workers.pruning.patch import Patch, PatchError, require_promised
from workers.pruning.patch_building import require_own_tensors, require_stored
from workers.pruning.patch_format import WeightChange
from workers.pruning.safetensors_files import StoredTensor, list_tensors
from workers.pruning.stored_matrix import Values, to_tensor
from workers.pruning.stored_names import CONV1D_MODEL_TYPES, read_config

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
MOST_RANK = 512
"""Largest --max-lora-rank that vLLM accepts."""
VLLM_ARCHITECTURES = frozenset(
    {
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "Gemma3ForCausalLM",
        "Phi3ForCausalLM",
        "OPTForCausalLM",
    }
)
"""Architectures whose projections vLLM 0.32 can serve with adapters. It does not support them for
GPT-2 and GPT-NeoX, and experts would need adapters of their own."""

_PREFIX = "base_model.model."  # PEFT's prefix for the names of wrapped modules


class AdapterError(ValueError):
    """The correction cannot be an adapter; publish it as a full checkpoint."""


class AdapterRankError(AdapterError):
    """The correction would need an adapter of a higher rank than is allowed."""


@dataclass(frozen=True)
class Adapter:
    """The two files of a PEFT adapter; equal patches give equal bytes."""

    rank: int
    config: bytes
    weights: bytes

    @property
    def files(self) -> dict[str, bytes]:
        """File name → content."""
        return {CONFIG_NAME: self.config, WEIGHTS_NAME: self.weights}

    def save(self, folder: Path) -> None:
        """Write both files to an existing folder, from which `peft` or vLLM can load them."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


def find_rank(patch: Patch, base: Path, max_rank: int = MOST_RANK) -> int:
    """Return the rank of the adapter: the largest number of lines that any module needs.

    `base` is the checkpoint's folder. Raises `AdapterError` for a patch that no adapter can
    represent, and `AdapterRankError`, which names the module with the most lines, if the rank
    exceeds `max_rank` or `MOST_RANK`. Raises `PatchError` for a patch that does not fit the
    checkpoint.
    """
    stored = list_tensors(base)
    _require_products(patch, stored)
    _require_orientation(patch, base)
    require_own_tensors(patch, stored)
    ranks = {
        change.module: _count_lines(patch, require_stored(stored, name), change)
        for name, change in sorted(patch.weights.items())
    }
    module = max(ranks, key=ranks.__getitem__)
    limit = min(max_rank, MOST_RANK)
    if ranks[module] > limit:
        raise AdapterRankError(
            f"{module} needs rank {ranks[module]}, an adapter here has rank {limit} at most. "
            f"Correct again with serving.max_rank {limit}, or publish a full checkpoint."
        )
    return ranks[module]


def build_adapter(
    patch: Patch, base: Path, *, base_model: str, max_rank: int = MOST_RANK
) -> Adapter:
    """Return the adapter that changes the checkpoint in folder `base` as `patch` does.

    Modules that the patch does not change are left out; modules that need a lower rank are padded
    with zeros. Values keep the checkpoint's dtype and are therefore exact. `base_model` is the
    base's name in the adapter's config. Raises what `find_rank` and `require_promised` do.
    """
    factors = factorise(patch, base, max_rank)
    tensors: dict[str, torch.Tensor] = {}
    for module, (down, up) in factors.items():
        tensors[f"{_PREFIX}{module}.lora_A.weight"] = down
        tensors[f"{_PREFIX}{module}.lora_B.weight"] = up
    rank = len(next(iter(factors.values())).down)
    config = _build_config(list(factors), rank, base_model, is_transposed=patch.layout.transposed)
    return Adapter(rank, config, save_safetensors(tensors, metadata={"format": "pt"}))


class Factors(NamedTuple):
    """The change that a patch makes to one module's weight `(out, in)`, as `up @ down`."""

    down: torch.Tensor
    """`(rank, in)`, PEFT's `lora_A`."""
    up: torch.Tensor
    """`(out, rank)`, PEFT's `lora_B`."""


def factorise(patch: Patch, base: Path, max_rank: int = MOST_RANK) -> dict[str, Factors]:
    """Return module → factors of its change, all of the same rank, in the checkpoint's dtype.

    Modules are sorted by name. Raises what `build_adapter` does.
    """
    rank = find_rank(patch, base, max_rank)
    require_promised(patch, base)
    stored = list_tensors(base)
    changes = sorted(patch.weights.items(), key=lambda item: item[1].module)
    return {
        change.module: _factor(patch, require_stored(stored, name), change, rank)
        for name, change in changes
    }


def is_served_with_adapters(config: Mapping[str, object]) -> bool:
    """Return whether vLLM can serve adapters for a checkpoint with this `config.json`."""
    architectures = config.get("architectures")
    return isinstance(architectures, list) and bool(VLLM_ARCHITECTURES.intersection(architectures))


def _require_products(patch: Patch, stored: Mapping[str, StoredTensor]) -> None:
    if patch.biases:
        raise AdapterError(
            "components replaced by their mean change biases, which adapters here do not hold. "
            "Publish the correction as a full checkpoint."
        )
    if experts := [change for change in patch.weights.values() if "experts" in change.module]:
        raise AdapterError(
            f"{experts[0].module} holds experts, which adapters here do not change. "
            "Publish the correction as a full checkpoint."
        )
    for name, change in patch.weights.items():
        if len(require_stored(stored, name).shape) != 2:
            raise AdapterError(
                f"the weight of {change.module} is not a matrix. "
                "Publish the correction as a full checkpoint."
            )


def _require_orientation(patch: Patch, base: Path) -> None:
    """Raise `PatchError` if the patch says that weights lie otherwise than they do.

    Values of single weights, and so the hash, do not tell.
    """
    is_transposed = read_config(base).get("model_type") in CONV1D_MODEL_TYPES
    if patch.layout.transposed is not is_transposed:
        raise PatchError(
            "the patch says otherwise than config.json whether weights are stored transposed; "
            "fetch the patch from its job again"
        )


def _count_lines(patch: Patch, stored: StoredTensor, change: WeightChange) -> int:
    """Return the smallest number of the module's lines that cover the pruned entries."""
    inputs, outputs = patch.layout.find_inputs(stored.shape, change.indices)
    return len(inputs) if outputs is None else len(find_cover(outputs, inputs))


def _factor(patch: Patch, stored: StoredTensor, change: WeightChange, rank: int) -> Factors:
    added = (patch.scale - 1) * to_tensor(change.original, stored.dtype)
    inputs, outputs = patch.layout.find_inputs(stored.shape, change.indices)
    width = prod(stored.shape) // patch.layout.count_outputs(stored.shape)
    factors = Factors(
        torch.zeros(rank, width, dtype=added.dtype),
        torch.zeros(patch.layout.count_outputs(stored.shape), rank, dtype=added.dtype),
    )
    if outputs is None:  # `added` is (feature, out)
        _write_features(factors, inputs, added)
    else:
        _write_weights(factors, inputs, outputs, added)
    return factors


def _write_features(factors: Factors, inputs: Values, added: torch.Tensor) -> None:
    """Write the change of whole input features into `factors`, one line per feature."""
    lines = torch.arange(len(inputs))
    factors.down[lines, torch.from_numpy(inputs)] = 1
    factors.up[:, lines] = added.t()


def _write_weights(factors: Factors, inputs: Values, outputs: Values, added: torch.Tensor) -> None:
    """Write the change of single weights into `factors`, on the fewest rows and columns.

    A weight that lies on both a chosen row and a chosen column belongs to the row.
    """
    cover = find_cover(outputs, inputs)
    count = len(cover.rows)
    on_row = np.isin(outputs, cover.rows)
    row = np.searchsorted(cover.rows, outputs[on_row])
    column = count + np.searchsorted(cover.columns, inputs[~on_row])
    factors.up[cover.rows, np.arange(count)] = 1
    factors.down[row, inputs[on_row]] = added[on_row]
    factors.down[np.arange(count, len(cover)), cover.columns] = 1
    factors.up[outputs[~on_row], column] = added[~on_row]


def _build_config(modules: list[str], rank: int, base_model: str, *, is_transposed: bool) -> bytes:
    """Return the adapter's PEFT config as bytes; alpha = r makes the scaling 1."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": is_transposed,
        "target_modules": modules,
    }
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
