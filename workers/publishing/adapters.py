"""A neuron-level patch as a PEFT LoRA adapter, exactly.

Removing the input features J of a linear module adds −W[:, J]·E_J to its weight, and that is a
product of two thin matrices: `lora_A` picks the features, `lora_B` takes their columns away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save as save_safetensors

from excise.names import Granularity
from workers.pruning.patch import Patch, WrongCheckpointError
from workers.pruning.patch_building import require_stored
from workers.pruning.patch_format import WeightChange
from workers.pruning.safetensors_files import (
    StoredTensor,
    compute_checkpoint_sha256,
    list_tensors,
)
from workers.pruning.stored_matrix import to_tensor

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values vLLM takes for --max-lora-rank; an adapter is padded to one of them."""
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
"""Architectures whose MLP outputs vLLM 0.32 serves with adapters; GPT-2 and GPT-NeoX have none,
and experts would need their own."""

_PREFIX = "base_model.model."  # how PEFT names what it wraps


class AdapterError(ValueError):
    """The correction cannot be an adapter; publish it as a full checkpoint."""


class AdapterRankError(AdapterError):
    """It would be an adapter, but of a higher rank than is allowed."""


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
        """Write both files into an existing folder, for `peft` or vLLM to load by hand."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


def find_rank(patch: Patch, max_rank: int) -> int:
    """Return the rank of the adapter: that of the fullest module, rounded up to one vLLM knows.

    It is at most `max_rank`. Raises `AdapterError` for a patch that is no
    sum of input features, `AdapterRankError` naming the module that has too many.
    """
    _require_neurons(patch)
    module, count = max(
        ((change.module, len(change.indices)) for change in patch.weights.values()),
        key=lambda found: found[1],
    )
    allowed = sorted({*VLLM_RANKS, min(max_rank, VLLM_RANKS[-1])})
    for rank in allowed:
        if count <= rank <= max_rank:
            return rank
    raise AdapterRankError(
        f"{module} has {count} pruned neurons, an adapter here has rank {max_rank} at most. "
        f"Correct again with serving.max_rank {max_rank}, or publish a full checkpoint."
    )


def build_adapter(patch: Patch, base: Path, *, max_rank: int, base_model: str) -> Adapter:
    """Return the adapter that does to the checkpoint in folder `base` what `patch` does.

    Modules without pruned neurons are left out; those with fewer than the rank are padded with
    zeros. Values keep the checkpoint's dtype, so they are exact. `base_model` is what the config
    calls the base. Raises as `find_rank` does, and `WrongCheckpointError` for another base.
    """
    rank = find_rank(patch, max_rank)
    found = compute_checkpoint_sha256(base)
    if found != patch.base_sha256:
        raise WrongCheckpointError(
            f"the weights have sha256 {found}, the patch needs {patch.base_sha256}; give its base"
        )
    stored = list_tensors(base)
    tensors: dict[str, torch.Tensor] = {}
    for name, change in sorted(patch.weights.items()):
        down, up = _factor(patch, require_stored(stored, name), change, rank)
        tensors[f"{_PREFIX}{change.module}.lora_A.weight"] = down
        tensors[f"{_PREFIX}{change.module}.lora_B.weight"] = up
    modules = sorted(change.module for change in patch.weights.values())
    config = _build_config(modules, rank, base_model, is_transposed=patch.layout.transposed)
    return Adapter(rank, config, save_safetensors(tensors, metadata={"format": "pt"}))


def is_served_with_adapters(config: Mapping[str, object]) -> bool:
    """Return whether vLLM takes adapters for a checkpoint with this `config.json`."""
    architectures = config.get("architectures")
    return isinstance(architectures, list) and bool(VLLM_ARCHITECTURES.intersection(architectures))


def _require_neurons(patch: Patch) -> None:
    if patch.granularity is not Granularity.NEURON:
        raise AdapterError(
            f"a correction of {patch.granularity}s is no adapter: only pruned neurons are of low "
            "rank. Publish it as a full checkpoint."
        )
    if patch.biases:
        raise AdapterError(
            "neurons replaced by their mean change biases, which adapters here do not hold. "
            "Publish the correction as a full checkpoint."
        )
    if experts := [change for change in patch.weights.values() if "experts" in change.module]:
        raise AdapterError(
            f"{experts[0].module} holds experts, which adapters here do not change. "
            "Publish the correction as a full checkpoint."
        )


def _factor(
    patch: Patch, stored: StoredTensor, change: WeightChange, rank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `lora_A (rank, in)` and `lora_B (out, rank)` of one module."""
    original = to_tensor(change.original, stored.dtype)  # (feature, out)
    count = len(change.indices)
    down = torch.zeros(rank, patch.layout.count(stored.shape), dtype=original.dtype)
    down[torch.arange(count), torch.from_numpy(change.indices).long()] = 1
    up = torch.zeros(original.shape[1], rank, dtype=original.dtype)
    up[:, :count] = ((patch.scale - 1) * original).t()
    return down, up


def _build_config(modules: list[str], rank: int, base_model: str, *, is_transposed: bool) -> bytes:
    """Return PEFT's description; alpha = r makes its scaling 1."""
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
