"""A patch for llama.cpp: as a LoRA adapter in GGUF, or merged into a GGUF of the base.

llama.cpp has its own names for tensors and stores the rows of some projections in another order
than checkpoints. Both follow its converter, convert_hf_to_gguf.py.
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

from workers.pruning.patch import Patch, WrongCheckpointError, require_promised
from workers.pruning.patch_building import require_stored
from workers.pruning.patch_format import WeightChange
from workers.pruning.safetensors_files import StoredTensor, list_tensors
from workers.pruning.stored_matrix import Values, scale_bits, to_bits, to_tensor, view_bits
from workers.pruning.stored_names import read_config
from workers.publishing.adapters import factorise

_BITS = {
    GGMLQuantizationType.F32: ("F32", np.dtype(np.uint32), torch.float32),
    GGMLQuantizationType.F16: ("F16", np.dtype(np.uint16), torch.float16),
    GGMLQuantizationType.BF16: ("BF16", np.dtype(np.uint16), torch.bfloat16),
}
"""Unquantised GGUF types → safetensors' name, type of raw bits, torch dtype."""
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
_COMPUTED = frozenset(
    {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}
)
"""Tensors of a GGUF that the converter computes from `config.json`."""
_PREFIXES = ("", "model.", "transformer.", "gpt_neox.")
"""Leading parts of names, which are missing in a checkpoint that was saved without its head."""
_SUFFIXES = (".weight", ".bias")


class GgufError(ValueError):
    """llama.cpp does not know the family, or the patch cannot be applied to the base's GGUF."""


Order = Callable[[int, Mapping[str, Any]], Values]
"""Takes the number of output rows and the configuration; returns, for each row in GGUF, the
checkpoint's row that it holds."""


@dataclass(frozen=True)
class GgufFamily:
    """How llama.cpp stores a family."""

    architecture: MODEL_ARCH
    orders: Mapping[str, Order]
    """Last part of a module's name → its order of rows, if that differs from the checkpoint's."""
    norm_shift: int = 0
    """What the converter adds to the weights of norms."""


def _interleave(head_key: str) -> Order:
    """Return the order in which the two halves of rotary pairs alternate, head by head.

    In checkpoints, each head has all first halves and then all second halves.
    """

    def order(rows: int, config: Mapping[str, Any]) -> Values:
        heads = config.get(head_key) or config["num_attention_heads"]
        return np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)

    return order


def _part_heads(rows: int, config: Mapping[str, Any]) -> Values:
    """Return the order of all queries, then all keys, then all values.

    In checkpoints, the three are together for each head.
    """
    heads = config["num_attention_heads"]
    return np.arange(rows).reshape(heads, 3, -1).swapaxes(0, 1).reshape(-1)


_LLAMA = GgufFamily(
    MODEL_ARCH.LLAMA,
    {"q_proj": _interleave("num_attention_heads"), "k_proj": _interleave("num_key_value_heads")},
)
GGUF_FAMILIES = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": GgufFamily(MODEL_ARCH.QWEN2, {}),
    "Qwen3ForCausalLM": GgufFamily(MODEL_ARCH.QWEN3, {}),
    "Gemma3ForCausalLM": GgufFamily(MODEL_ARCH.GEMMA3, {}, norm_shift=1),
    "Olmo2ForCausalLM": GgufFamily(MODEL_ARCH.OLMO2, {}),
    "Phi3ForCausalLM": GgufFamily(MODEL_ARCH.PHI3, {}),
    "GPT2LMHeadModel": GgufFamily(MODEL_ARCH.GPT2, {}),
    "GPTNeoXForCausalLM": GgufFamily(MODEL_ARCH.GPTNEOX, {"query_key_value": _part_heads}),
}
"""A checkpoint's architecture → how llama.cpp stores it."""


class GgufNames:
    """The names of a checkpoint's modules in GGUF, and the order of their rows there."""

    def __init__(self, base: Path) -> None:
        """Look up the checkpoint in folder `base`. Raises `GgufError` for an unknown family."""
        self._config = read_config(base)
        architectures = self._config.get("architectures") or ["none"]
        known = [GGUF_FAMILIES[name] for name in architectures if name in GGUF_FAMILIES]
        if not known:
            raise GgufError(
                f"llama.cpp has no family for {architectures[0]}; export a PEFT adapter or the "
                f"merged checkpoint. In GGUF: {', '.join(sorted(GGUF_FAMILIES))}"
            )
        self._family = known[0]
        layers: Any = self._config.get("num_hidden_layers", self._config.get("n_layer"))
        self._names = get_tensor_name_map(self._family.architecture, int(layers))

    @property
    def architecture(self) -> str:
        """llama.cpp's name for the family."""
        return str(MODEL_ARCH_NAMES[self._family.architecture])

    def name(self, module: str) -> str:
        """Return the name of a module's weight in GGUF. Raises `GgufError` if it has none."""
        found = self._names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if found is None:
            raise GgufError(f"{module} has no name in GGUF; export a PEFT adapter")
        return str(found)

    def order(self, module: str, rows: int) -> Values:
        """Return, for each row of GGUF's tensor, the module's output feature it holds, `(row,)`."""
        find = self._family.orders.get(module.rpartition(".")[2])
        return np.arange(rows) if find is None else find(rows, self._config)

    def find(self, stored: str) -> str | None:
        """Return the name in GGUF of a checkpoint's tensor; None if llama.cpp does not hold it."""
        for prefix in _PREFIXES:
            found = self._names.get_name(f"{prefix}{stored}", try_suffixes=_SUFFIXES)
            if found is not None:
                return str(found) if found.endswith(_SUFFIXES) else None
        return None

    def read(self, stored: StoredTensor, *, transposed: bool) -> torch.Tensor:
        """Return a checkpoint's tensor in the order and with the values that it has in GGUF.

        `transposed` says that the checkpoint stores the weights of its blocks as `(in, out)`.
        """
        values = to_tensor(np.array(view_bits(stored, "r")), stored.dtype)
        if transposed and values.dim() > 1 and str(self.find(stored.name)).startswith("blk."):
            values = values.t()
        module = stored.name.rpartition(".")[0]
        if module.rpartition(".")[2] in self._family.orders:
            values = values[torch.from_numpy(self.order(module, len(values)))]
        if self._family.norm_shift and stored.name.endswith("norm.weight"):
            wide = values if values.dtype is torch.float16 else values.float()  # as the converter
            values = wide + self._family.norm_shift
        return values


def write_gguf_adapter(patch: Patch, base: Path, file: Path, *, base_model: str) -> int:
    """Write the patch as a LoRA adapter for llama.cpp (`--lora`); return its rank.

    Values are float32. Raises `GgufError`, and what `build_adapter` does.
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
    """Write the base's GGUF with the patch applied to `file`; nothing else in it changes.

    `base` is the folder of the checkpoint that `base_gguf` was converted from, as F32, F16 or
    BF16; every tensor of both is compared, one at a time. Raises `GgufError` if a tensor is
    quantised or missing or if a bias changes, `WrongCheckpointError` if `base_gguf` is not that
    of `base`, and what `require_promised` does.
    """
    if patch.biases:
        raise GgufError(
            "components replaced by their mean change biases; export the merged checkpoint and "
            "convert that"
        )
    require_promised(patch, base)
    names, stored = GgufNames(base), list_tensors(base)
    _require_same(names, stored, base_gguf, transposed=patch.layout.transposed)
    shutil.copyfile(base_gguf, file)
    reader = GGUFReader(file, "r+")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    for name, change in patch.weights.items():
        tensor, source = tensors.get(names.name(change.module)), require_stored(stored, name)
        if tensor is None:
            raise GgufError(f"{change.module} is missing in {base_gguf.name}; export an adapter")
        _write_change(patch, change, source.dtype, source.shape, tensor, names)
    reader.data.flush()


def _require_same(
    names: GgufNames, stored: Mapping[str, StoredTensor], file: Path, *, transposed: bool
) -> None:
    """Raise unless the tensors of the GGUF are those of the checkpoint, each with its values."""
    expected = {
        name: tensor for tensor in stored.values() if (name := names.find(tensor.name)) is not None
    }
    tensors = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    found = {name: tensor for name, tensor in tensors.items() if name not in _COMPUTED}
    if _OUTPUT in expected or _OUTPUT in found:  # where one lacks it, the embedding is the output
        sides: tuple[dict[str, Any], ...] = (expected, found)
        for each in sides:
            if _EMBEDDING in each:
                each.setdefault(_OUTPUT, each[_EMBEDDING])
    for name in (*found, *sorted(expected.keys() - found.keys())):
        if name not in expected:
            raise WrongCheckpointError(
                f"{name} of {file.name} is not in the checkpoint; give the GGUF of the patch's base"
            )
        if name not in found or found[name].tensor_type not in _BITS:
            kind = found[name].tensor_type.name if name in found else "missing"
            raise GgufError(
                f"{name} is {kind} in {file.name}; give the base as F32, F16 or BF16, or export an "
                "adapter"
            )
        if not _is_same(found[name], names.read(expected[name], transposed=transposed)):
            raise WrongCheckpointError(
                f"{name} of {file.name} does not hold the values of {expected[name].name}; give "
                "the GGUF of the patch's base"
            )


def _is_same(tensor: Any, expected: torch.Tensor) -> bool:
    """Return whether a tensor of a GGUF holds these values, rounded to its type.

    An embedding may lack its last rows: the converter leaves out those without a token.
    """
    _, bits, floats = _BITS[tensor.tensor_type]
    shape = tuple(map(int, reversed(tensor.shape)))
    if tensor.name == _EMBEDDING:
        expected = expected[: shape[0]]
    if shape != tuple(expected.shape):
        return False
    return np.array_equal(tensor.data.reshape(-1).view(bits), to_bits(expected.to(floats)).ravel())


def _write_change(
    patch: Patch,
    change: WeightChange,
    dtype: str,
    shape: tuple[int, ...],
    tensor: Any,
    names: GgufNames,
) -> None:
    """Write one weight's change into the bits of its tensor, after checking the present values."""
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
            f"{tensor.name} does not hold the values that the patch says; make the patch again"
        )
    view[places] = scale_bits(original, own, patch.scale)
