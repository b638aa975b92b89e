"""Building a patch: the changes that a selection makes to the tensors of a checkpoint folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import torch

from excise.names import Granularity
from workers.domain import Selection
from workers.pruning.ablation import compute_bias_shift, shift_bias
from workers.pruning.patch_format import BiasChange, Patch, PatchVerdict, WeightChange
from workers.pruning.safetensors_files import (
    StoredTensor,
    compute_checkpoint_sha256,
    list_tensors,
)
from workers.pruning.stored_matrix import (
    Layout,
    PatchError,
    Values,
    scale_bits,
    to_bits,
    to_tensor,
    view_bits,
)
from workers.pruning.stored_names import (
    CONV1D_MODEL_TYPES,
    find_bias,
    find_stored,
    find_stored_head_dim,
    read_config,
)

_NAMES = {
    Granularity.NEURON: "input feature",
    Granularity.HEAD: "head",
    Granularity.WEIGHT: "weight",
}


def build_patch(
    base: Path,
    selection: Selection,
    *,
    head_dim: int | None = None,
    transposed: bool | None = None,
    scale: float = 0.0,
    replacement: Mapping[str, torch.Tensor] | None = None,
    verdict: PatchVerdict | None = None,
) -> Patch:
    """Return the patch that multiplies `selection` by `scale` in the checkpoint folder `base`.

    `transposed` says that weights are stored (in, out); if None, it is read from `config.json`
    (true for GPT-2), as is `head_dim`. `replacement` has the same meaning as in `pruned`, and its
    effect is added to the stored bias. `verdict` is the job's verdict. Weights are found by
    module name (see `find_stored`). Raises `PatchError` for an empty selection, indices that do
    not ascend, a component that the checkpoint does not have, and a replacement for a module
    without a stored bias.
    """
    tensors = list_tensors(base)
    layout = _find_layout(base, tensors, selection, transposed, head_dim)
    weights: dict[str, WeightChange] = {}
    biases: dict[str, BiasChange] = {}
    for module, chosen in sorted(selection.indices.items()):
        for name, change in _split_change(tensors, module, chosen.numpy(), layout):
            if name in weights:
                raise PatchError(f"{module} and another module are both {name} in the checkpoint")
            weights[name] = change
            if replacement is not None:
                means = replacement.get(module)
                bias, shifted = _shift_bias(tensors, tensors[name], change, layout, scale, means)
                biases[bias] = shifted
    patch = Patch("", "", layout, scale, weights, biases, verdict)
    return replace(
        patch,
        base_sha256=compute_checkpoint_sha256(base),
        corrected_sha256=compute_corrected_sha256(patch, base),
    )


def compute_corrected_sha256(patch: Patch, base: Path) -> str:
    """Return the hash of the weights in folder `base` as the patch changes them.

    Nothing is written. Raises `PatchError` if a change does not fit its tensor.
    """
    return compute_checkpoint_sha256(base, lambda tensor: _correct(patch, tensor))


def require_own_tensors(patch: Patch, tensors: Mapping[str, StoredTensor]) -> None:
    """Raise `PatchError` unless each changed tensor is its module's, and holds the components."""
    for name, change in sorted(patch.weights.items()):
        tensor = require_stored(tensors, name)
        firsts, first = dict[str, int](), 0
        for part in _find_weights(tensors, change.module):
            firsts[part.name] = first
            first += patch.layout.count(part.shape)
        if firsts.get(name) != change.first:
            raise PatchError(
                f"{name!r} is not where the patch says in {change.module!r}; fetch the patch from "
                "its job again"
            )
        _require_within(name, change.indices, patch.layout.count(tensor.shape), patch.layout)


def require_originals(patch: Patch, tensors: Mapping[str, StoredTensor]) -> None:
    """Raise `PatchError` unless the original values of changed weights are the stored ones.

    Raises what `require_own_tensors` does.
    """
    require_own_tensors(patch, tensors)
    for name, change in sorted(patch.weights.items()):
        stored = _read_values(require_stored(tensors, name), change.indices, patch.layout)
        if stored.dtype != change.original.dtype or not np.array_equal(stored, change.original):
            raise PatchError(
                f"the original values of {name!r} are not those of the base; fetch the patch from "
                "its job again"
            )


def require_stored(tensors: Mapping[str, StoredTensor], name: str) -> StoredTensor:
    """Return the tensor `name`. Raises `PatchError` if the checkpoint does not have it."""
    if name not in tensors:
        raise PatchError(f"the checkpoint has no matrix {name}")
    return tensors[name]


def write_change(
    tensor: StoredTensor, view: Values, change: WeightChange, layout: Layout, scale: float | None
) -> None:
    """Write the change's original values, times `scale` unless it is None, into the tensor's bits.

    `view` holds the tensor's raw bits and is changed in place. Raises `PatchError` if the change
    does not fit the tensor.
    """
    if len(tensor.shape) not in (2, 3):
        raise PatchError(f"{tensor.name} is not a matrix")
    _require_within(tensor.name, change.indices, layout.count(tensor.shape), layout)
    oriented = layout.orient(view)
    entries = layout.entries(tensor.shape, change.indices)
    original = change.original
    if oriented[entries].shape != original.shape or view.dtype != original.dtype:
        raise PatchError(f"the values of {tensor.name!r} have another height or width than its own")
    oriented[entries] = original if scale is None else scale_bits(original, tensor.dtype, scale)


def _find_layout(
    base: Path,
    tensors: Mapping[str, StoredTensor],
    selection: Selection,
    transposed: bool | None,
    head_dim: int | None,
) -> Layout:
    if not len(selection):
        raise PatchError("a patch needs at least one component")
    config = read_config(base)
    if transposed is None:
        transposed = config.get("model_type") in CONV1D_MODEL_TYPES
    layout = Layout(selection.granularity, transposed)
    if selection.granularity is not Granularity.HEAD:
        return layout
    module = min(selection.indices)
    tensor = _find_weights(tensors, module)[0]
    features = layout.count(tensor.shape)
    head_dim = head_dim or find_stored_head_dim(config, features)
    if head_dim is None:
        raise PatchError(
            f"config.json does not divide the {features} inputs of {module} by heads; give head_dim"
        )
    return replace(layout, head_dim=head_dim)


def _find_weights(tensors: Mapping[str, StoredTensor], module: str) -> tuple[StoredTensor, ...]:
    """Return a module's weight matrices: one, or one for each expert."""
    try:
        found = find_stored(tensors, module)
    except ValueError as error:
        raise PatchError(str(error)) from error
    if not found or any(len(tensor.shape) not in (2, 3) for tensor in found):
        raise PatchError(f"the checkpoint has no matrix {module}.weight")
    return found


def _split_change(
    tensors: Mapping[str, StoredTensor], module: str, chosen: Values, layout: Layout
) -> Iterator[tuple[str, WeightChange]]:
    """Yield (tensor name, change) for each of the module's tensors that has chosen components."""
    if np.any(chosen[1:] <= chosen[:-1]):
        raise PatchError(f"the components of {module} are not in ascending order, each once")
    stored = _find_weights(tensors, module)
    counts = [layout.count(tensor.shape) for tensor in stored]
    _require_within(module, chosen, sum(counts), layout)
    ends = np.cumsum(counts)
    parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    for tensor, first, part in zip(stored, ends - counts, parts, strict=True):
        if len(part):
            within = part - first
            narrow = within[-1] <= np.iinfo(np.int32).max
            indices = within.astype(np.int32 if narrow else np.int64)
            original = _read_values(tensor, indices, layout)
            yield tensor.name, WeightChange(module, int(first), indices, original)


def _read_values(tensor: StoredTensor, indices: Values, layout: Layout) -> Values:
    view = layout.orient(view_bits(tensor, "r"))
    return np.ascontiguousarray(view[layout.entries(tensor.shape, indices)])


def _require_within(name: str, indices: Values, size: int, layout: Layout) -> None:
    for index in indices[[0, -1]].tolist() if len(indices) else ():
        if not 0 <= index < size:
            what = _NAMES[layout.granularity]
            raise PatchError(f"the checkpoint has no matrix of {name} with {what} {index}")


def _shift_bias(
    tensors: Mapping[str, StoredTensor],
    weight: StoredTensor,
    change: WeightChange,
    layout: Layout,
    scale: float,
    means: torch.Tensor | None,
) -> tuple[str, BiasChange]:
    """Return (bias tensor name, its change) for one weight whose components become their means."""
    bias = find_bias(tensors, weight)
    if bias is None or len(weight.shape) != 2:
        raise PatchError(
            f"the checkpoint has no bias beside {weight.name} to hold a mean; ablate by zero"
        )
    inputs, outputs = layout.find_inputs(weight.shape, change.indices)
    features = prod(weight.shape) // layout.count_outputs(weight.shape)
    if means is None or means.shape != (features,):
        raise PatchError(f"{change.module} needs its {features} mean activations, one a feature")
    original = np.array(view_bits(bias, "r"))
    shift = compute_bias_shift(
        to_tensor(change.original, weight.dtype),
        means.cpu()[torch.from_numpy(inputs)],
        scale,
        None if outputs is None else torch.from_numpy(outputs),
        layout.count_outputs(weight.shape),
    )
    return bias.name, BiasChange(
        original, to_bits(shift_bias(to_tensor(original, bias.dtype), shift))
    )


def _correct(patch: Patch, tensor: StoredTensor) -> Values | None:
    """Return a tensor's corrected bits; None if the patch does not change it."""
    if bias := patch.biases.get(tensor.name):
        return bias.corrected
    change = patch.weights.get(tensor.name)
    if change is None:
        return None
    values: Values = np.array(view_bits(tensor, "r"))
    write_change(tensor, values, change, patch.layout, patch.scale)
    return values
