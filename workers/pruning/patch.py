"""The patch: a safetensors file that turns a base checkpoint into the corrected one, and back.

For every touched weight matrix `T` it holds `T::columns` (int32, the removed input features)
and `T::original` (their values in the base, as raw bytes). Applying writes zeros there,
reverting writes the originals; both change nothing else in the files, so reverting gives the
base back bit for bit. Checkpoints are recognised by the hash of their weights.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from workers.domain import Granularity, Selection
from workers.pruning.safetensors_files import (
    ITEM_BYTES,
    StoredTensor,
    compute_checkpoint_sha256,
    list_tensors,
)
from workers.pruning.selection import list_indices

FORMAT_VERSION = 1
METADATA_KEY = "excise"
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}

Values = NDArray[Any]


class PatchError(ValueError):
    """The patch cannot be built or read, or does not fit this checkpoint or output folder."""


class WrongCheckpointError(PatchError):
    """The folder's weights are not those the patch was made for."""


@dataclass(frozen=True)
class Patch:
    """A correction of one base checkpoint, reversible."""

    base_sha256: str
    corrected_sha256: str
    granularity: Granularity
    columns: Mapping[str, Values]
    """Weight tensor name → removed input features, `(k,)` int32, ascending."""
    originals: Mapping[str, Values]
    """Weight tensor name → base values as unsigned integers of the dtype's width, `(out, k)`."""

    @property
    def selection(self) -> Selection:
        """The pruned components."""
        indices = {
            name.removesuffix(".weight"): torch.from_numpy(chosen.astype(np.int64))
            for name, chosen in sorted(self.columns.items())
        }
        return Selection(self.granularity, indices)


def build_patch(base: Path, selection: Selection) -> Patch:
    """Return the patch that removes `components` from the checkpoint in folder `base`.

    Raises `PatchError` on an empty selection, a component named twice or one the checkpoint
    does not have.
    """
    groups = list_indices(selection)
    if not groups:
        raise PatchError("a patch needs at least one component")
    tensors = list_tensors(base)
    columns, originals, corrected = {}, {}, {}
    for module, indices in groups.items():
        tensor = _find_matrix(tensors, f"{module}.weight", indices)
        selected = np.asarray(indices, dtype=np.int32)
        values = np.array(_view(tensor, "r"))
        columns[tensor.name] = selected
        originals[tensor.name] = values[:, selected]
        values[:, selected] = 0
        corrected[tensor.name] = values
    return Patch(
        base_sha256=compute_checkpoint_sha256(base),
        corrected_sha256=compute_checkpoint_sha256(base, replaced=corrected),
        granularity=Granularity.NEURON,
        columns=columns,
        originals=originals,
    )


def serialise_patch(patch: Patch) -> bytes:
    """Return the patch as the bytes of a safetensors file; equal patches give equal bytes."""
    tensors: dict[str, Values] = {}
    for name in sorted(patch.columns):
        tensors[f"{name}::columns"] = np.ascontiguousarray(patch.columns[name])
        tensors[f"{name}::original"] = np.ascontiguousarray(patch.originals[name])
    description = {
        "format_version": FORMAT_VERSION,
        "operation": "zero_columns",
        "granularity": patch.granularity.value,
        "base_sha256": patch.base_sha256,
        "corrected_sha256": patch.corrected_sha256,
        "components": len(patch.selection),
    }
    # One metadata key: safetensors does not fix the order of several.
    return save_safetensors(
        tensors, metadata={METADATA_KEY: json.dumps(description, sort_keys=True)}
    )


def parse_patch(data: bytes) -> Patch:
    """Return the patch in the bytes of a safetensors file.

    Raises `PatchError` when they are not a patch of this format version.
    """
    description = _read_description(data)
    try:
        tensors = load_safetensors(data)
    except Exception as error:
        raise PatchError(f"not a readable safetensors file: {error!r}") from error
    columns, originals = _split_halves(tensors)
    for name in columns:
        _check_halves(name, columns[name], originals[name])
    return Patch(
        base_sha256=_read_sha256(description, "base_sha256"),
        corrected_sha256=_read_sha256(description, "corrected_sha256"),
        granularity=_read_granularity(description),
        columns=columns,
        originals=originals,
    )


def apply_patch(patch: Patch, base: Path, output: Path) -> None:
    """Write to `output` the corrected copy of the checkpoint in folder `base`.

    `output` appears complete or not at all. Raises `WrongCheckpointError` when the base's
    weights are not those of the patch, `PatchError` when `output` is the base or lies inside
    it, `FileExistsError` when it exists.
    """
    _transform(patch, base, output, patch.base_sha256, patch.corrected_sha256, revert=False)


def revert_patch(patch: Patch, corrected: Path, output: Path) -> None:
    """Write to `output` the base copy of the corrected checkpoint, bit for bit.

    Raises as `apply_patch` does.
    """
    _transform(patch, corrected, output, patch.corrected_sha256, patch.base_sha256, revert=True)


def _transform(
    patch: Patch, source: Path, output: Path, expected: str, promised: str, *, revert: bool
) -> None:
    if output.resolve().is_relative_to(source.resolve()):
        raise PatchError(f"{output} lies inside {source}; name a folder outside it")
    if output.exists():
        raise FileExistsError(f"{output} exists; name a folder that does not")
    found = compute_checkpoint_sha256(source)
    if found != expected:
        raise WrongCheckpointError(
            f"the weights in {source} have sha256 {found}, the patch needs {expected}; "
            + ("revert takes the corrected checkpoint" if revert else "apply takes the base")
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        result = Path(scratch) / "checkpoint"
        _copy_and_write(patch, source, result, revert=revert)
        written = compute_checkpoint_sha256(result)
        if written != promised:
            raise PatchError(f"the result has sha256 {written}, the patch promised {promised}")
        result.rename(output)


def _copy_and_write(patch: Patch, source: Path, target: Path, *, revert: bool) -> None:
    shutil.copytree(source, target)
    tensors = list_tensors(target)
    for name, selected in patch.columns.items():
        tensor = _find_matrix(tensors, name, selected.tolist())
        tensor.file.chmod(0o644)
        view = _view(tensor, "r+")
        original = patch.originals[name]
        if original.shape[0] != view.shape[0] or original.dtype != view.dtype:
            raise PatchError(f"the values of {name!r} have another height or width than its own")
        view[:, selected] = original if revert else 0
        view.flush()
        del view


def _find_matrix(
    tensors: Mapping[str, StoredTensor], name: str, indices: Sequence[int]
) -> StoredTensor:
    """Return the matrix `name`; `indices`, ascending, must be columns of it."""
    tensor = tensors.get(name)
    for index in (indices[0], indices[-1]):
        if tensor is None or len(tensor.shape) != 2 or not 0 <= index < tensor.shape[1]:
            raise PatchError(f"the checkpoint has no matrix {name} with an input feature {index}")
    assert tensor is not None
    if tensor.dtype not in ITEM_BYTES:
        raise PatchError(f"{name} has dtype {tensor.dtype}, which a patch cannot hold")
    return tensor


def _view(tensor: StoredTensor, mode: Literal["r", "r+"]) -> np.memmap[Any, Any]:
    """Return the matrix as unsigned integers of its dtype's width, so that bits stay bits."""
    dtype = np.dtype(_UNSIGNED[ITEM_BYTES[tensor.dtype]])
    view: np.memmap[Any, Any] = np.memmap(
        tensor.file, dtype=dtype, mode=mode, offset=tensor.start, shape=tensor.shape
    )
    return view


def _read_description(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        description = json.loads(header["__metadata__"][METADATA_KEY])
        version = description["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PatchError("the file is not an Excise patch") from error
    if version != FORMAT_VERSION:
        raise PatchError(f"patch format {version!r} is not supported; this build reads 1")
    return dict(description)


def _read_sha256(description: Mapping[str, Any], key: str) -> str:
    value = description.get(key)
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise PatchError(f"the patch lacks {key}, 64 hexadecimal digits")
    return value


def _read_granularity(description: Mapping[str, Any]) -> Granularity:
    value: Any = description.get("granularity")
    try:
        return Granularity(value)
    except ValueError as error:
        known = ", ".join(Granularity)
        raise PatchError(f"granularity {value!r} is not supported; supported: {known}") from error


def _split_halves(tensors: Mapping[str, Values]) -> tuple[dict[str, Values], dict[str, Values]]:
    """Return columns and originals by the name of their matrix; both hold the same names."""
    halves: dict[str, dict[str, Values]] = {"columns": {}, "original": {}}
    for key in sorted(tensors):
        name, _, half = key.rpartition("::")
        if half not in halves:
            raise PatchError(f"the patch holds {key!r}, which is not part of one")
        halves[half][name] = tensors[key]
    columns, originals = halves["columns"], halves["original"]
    if unpaired := sorted(columns.keys() ^ originals.keys()):
        raise PatchError(f"the patch lacks columns or original values of {unpaired[0]!r}")
    if not columns:
        raise PatchError("the patch holds no columns")
    return columns, originals


def _check_halves(name: str, columns: Values, originals: Values) -> None:
    if columns.dtype != np.int32 or columns.ndim != 1 or columns.size == 0:
        raise PatchError(f"the columns of {name!r} are not a list of 32-bit integers")
    if columns[0] < 0 or np.any(columns[1:] <= columns[:-1]):
        raise PatchError(f"the columns of {name!r} are not in ascending order from 0")
    if originals.dtype.kind != "u" or originals.ndim != 2 or originals.shape[1] != columns.size:
        raise PatchError(f"the original values of {name!r} do not fit its columns")
