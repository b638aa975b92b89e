"""A patch for llama.cpp: as a LoRA adapter in GGUF, or inside a GGUF of the whole base.

llama.cpp calls tensors by names of its own and stores the rows of some projections in another
order than checkpoints do; both as its converter does it (convert_hf_to_gguf.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import (
    MODEL_ARCH,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFReader,
    GGUFType,
    GGUFWriter,
    Keys,
    get_tensor_name_map,
)

from workers.pruning.patch import Patch, WrongCheckpointError
from workers.pruning.patch_building import require_stored
from workers.pruning.patch_format import WeightChange
from workers.pruning.safetensors_files import list_tensors
from workers.pruning.stored_matrix import Values, scale_bits, to_bits, to_tensor
from workers.pruning.stored_names import read_config
from workers.publishing.adapters import factorise

_BITS = {
    GGMLQuantizationType.F32: ("F32", np.dtype(np.uint32), torch.float32),
    GGMLQuantizationType.F16: ("F16", np.dtype(np.uint16), torch.float16),
    GGMLQuantizationType.BF16: ("BF16", np.dtype(np.uint16), torch.bfloat16),
}
"""How values lie in tensors that hold them one by one."""


class GgufError(ValueError):
    """llama.cpp has no such family, or the GGUF of the base cannot take the patch."""


Order = Callable[[int, Mapping[str, Any]], Values]
"""Which output row of a checkpoint's weight lies in each row of GGUF's, from their number and
the configuration."""


@dataclass(frozen=True)
class GgufFamily:
    """How llama.cpp holds a family."""

    architecture: MODEL_ARCH
    orders: Mapping[str, Order]
    """Last part of a module's name → its order of rows, where that is another one."""


def _interleave(head_key: str) -> Order:
    """Rotary pairs side by side, head by head; checkpoints keep their two halves apart."""

    def order(rows: int, config: Mapping[str, Any]) -> Values:
        heads = config.get(head_key) or config["num_attention_heads"]
        return np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)

    return order


def _part_heads(rows: int, config: Mapping[str, Any]) -> Values:
    """All queries, then all keys, then all values; checkpoints keep those of a head together."""
    heads = config["num_attention_heads"]
    return np.arange(rows).reshape(heads, 3, -1).swapaxes(0, 1).reshape(-1)


_LLAMA = GgufFamily(
    MODEL_ARCH.LLAMA,
    {"q_proj": _interleave("num_attention_heads"), "k_proj": _interleave("num_key_value_heads")},
)
FAMILIES = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": GgufFamily(MODEL_ARCH.QWEN2, {}),
    "Qwen3ForCausalLM": GgufFamily(MODEL_ARCH.QWEN3, {}),
    "Gemma3ForCausalLM": GgufFamily(MODEL_ARCH.GEMMA3, {}),
    "Phi3ForCausalLM": GgufFamily(MODEL_ARCH.PHI3, {}),
    "GPT2LMHeadModel": GgufFamily(MODEL_ARCH.GPT2, {}),
    "GPTNeoXForCausalLM": GgufFamily(MODEL_ARCH.GPTNEOX, {"query_key_value": _part_heads}),
}
"""Architecture of a checkpoint → how llama.cpp holds it."""


class GgufNames:
    """What a checkpoint's modules are called in GGUF, and how their rows are ordered there."""

    def __init__(self, base: Path) -> None:
        """Of the checkpoint in the folder `base`. Raises `GgufError` for an unknown family."""
        self._config = read_config(base)
        architectures = self._config.get("architectures") or ["none"]
        known = [FAMILIES[name] for name in architectures if name in FAMILIES]
        if not known:
            raise GgufError(
                f"llama.cpp has no family for {architectures[0]}; export a PEFT adapter or the "
                f"merged checkpoint. In GGUF: {', '.join(sorted(FAMILIES))}"
            )
        self._family = known[0]
        layers: Any = self._config.get("num_hidden_layers", self._config.get("n_layer"))
        self._names = get_tensor_name_map(self._family.architecture, int(layers))

    @property
    def architecture(self) -> str:
        """What llama.cpp calls the family."""
        return str(MODEL_ARCH_NAMES[self._family.architecture])

    def name(self, module: str) -> str:
        """Return the name of a module's weight. Raises `GgufError` where there is none."""
        found = self._names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if found is None:
            raise GgufError(f"{module} has no name in GGUF; export a PEFT adapter")
        return str(found)

    def order(self, module: str, rows: int) -> Values:
        """Return `(row,)`: which output feature of the module lies in each row of GGUF's tensor."""
        find = self._family.orders.get(module.rpartition(".")[2])
        return np.arange(rows) if find is None else find(rows, self._config)


def write_gguf_adapter(patch: Patch, base: Path, file: Path, *, base_model: str) -> int:
    """Write the patch as a LoRA adapter for llama.cpp (`--lora`); return its rank.

    Values are float32. Raises `GgufError`, and as `build_adapter` does.
    """
    names, factors = GgufNames(base), factorise(patch, base)
    rank = len(next(iter(factors.values())).down)
    writer = GGUFWriter(file, names.architecture)
    writer.add_type(GGUFType.ADAPTER)
    writer.add_name(f"{base_model}, corrected")
    writer.add_string(Keys.Adapter.TYPE, "lora")
    writer.add_float32(Keys.Adapter.LORA_ALPHA, float(rank))
    for module, (down, up) in factors.items():
        name = names.name(module)
        rows = up.float().numpy()[names.order(module, len(up))]
        writer.add_tensor(f"{name}.lora_a", down.float().numpy())
        writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(rows))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return rank


def merge_into_gguf(patch: Patch, base: Path, base_gguf: Path, file: Path) -> None:
    """Write to `file` the base's GGUF with the patch applied; nothing else in it changes.

    `base` is the checkpoint that `base_gguf` was converted from, as F32, F16 or BF16. Raises
    `GgufError` where a changed tensor is quantised or missing, or a bias changes, and
    `WrongCheckpointError` where its values are not those that the patch was made for.
    """
    if patch.biases:
        raise GgufError(
            "components replaced by their mean change biases; export the merged checkpoint and "
            "convert that"
        )
    names, stored = GgufNames(base), list_tensors(base)
    shutil.copyfile(base_gguf, file)
    reader = GGUFReader(file, "r+")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    for name, change in patch.weights.items():
        tensor, source = tensors.get(names.name(change.module)), require_stored(stored, name)
        if tensor is None or tensor.tensor_type not in _BITS:
            kind = "missing" if tensor is None else tensor.tensor_type.name
            raise GgufError(
                f"{names.name(change.module)} is {kind} in {base_gguf.name}; give the base as F32, "
                "F16 or BF16, or export an adapter"
            )
        _write_change(patch, change, source.dtype, source.shape, tensor, names)
    reader.data.flush()


def _write_change(
    patch: Patch,
    change: WeightChange,
    dtype: str,
    shape: tuple[int, ...],
    tensor: Any,
    names: GgufNames,
) -> None:
    """Write one weight's change into the bits of its tensor, after a look at what is there."""
    own, bits, floats = _BITS[tensor.tensor_type]
    outputs = patch.layout.count_outputs(shape)
    width = prod(shape) // outputs
    view = tensor.data.reshape(-1).view(bits)
    if view.size != outputs * width:
        raise GgufError(f"{tensor.name} has another shape than {change.module}")
    view = view.reshape(outputs, width)
    row_of = np.argsort(names.order(change.module, outputs))
    inputs, chosen = patch.layout.find_inputs(shape, change.indices)
    places: tuple[Values, ...]
    places = (row_of[None, :], inputs[:, None]) if chosen is None else (row_of[chosen], inputs)
    original = to_bits(to_tensor(change.original, dtype).to(floats))
    if not np.array_equal(view[places], original):
        raise WrongCheckpointError(
            f"{tensor.name} does not hold the values the patch was made for; give the GGUF of its "
            "base"
        )
    view[places] = scale_bits(original, own, patch.scale)
