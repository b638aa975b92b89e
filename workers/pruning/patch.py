"""The patch: a safetensors file that turns a base checkpoint into the corrected one, and back.

For every touched weight matrix `T` it holds `T::columns` (int32, the removed input features)
and `T::original` (their values in the base, as raw bytes). Applying writes zeros there,
reverting writes the originals; both change nothing else in the files, so reverting gives the
base back bit for bit. Checkpoints are recognised by the hash of their weights.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from workers.domain import Component, Granularity
from workers.pruning.components import group_by_module
from workers.pruning.safetensors_files import (
    ITEM_BYTES,
    StoredTensor,
    compute_checkpoint_sha256,
    list_tensors,
)

FORMAT_VERSION = 1
METADATA_KEY = "excise"
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}

Values = NDArray[Any]


class PatchError(ValueError):
    """The patch cannot be read, or does not belong to this checkpoint."""


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
    def components(self) -> tuple[Component, ...]:
        """The pruned components, in order."""
        return tuple(
            Component(name.removesuffix(".weight"), int(index))
            for name in sorted(self.columns)
            for index in self.columns[name]
        )


def build_patch(base: Path, components: Iterable[Component]) -> Patch:
    """Return the patch that removes `components` from the checkpoint in folder `base`.

    Raises `PatchError` on an empty selection or a component the checkpoint does not have.
    """
    groups = group_by_module(components)
    if not groups:
        raise PatchError("a patch needs at least one component")
    tensors = list_tensors(base)
    columns, originals, corrected = {}, {}, {}
    for module, indices in groups.items():
        tensor = _find_matrix(tensors, f"{module}.weight", indices[-1])
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
        "components": len(patch.components),
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
        raise PatchError(f"not a readable safetensors file: {error}") from error
    names = sorted(key.removesuffix("::columns") for key in tensors if key.endswith("::columns"))
    try:
        return Patch(
            base_sha256=str(description["base_sha256"]),
            corrected_sha256=str(description["corrected_sha256"]),
            granularity=Granularity(description["granularity"]),
            columns={name: tensors[f"{name}::columns"] for name in names},
            originals={name: tensors[f"{name}::original"] for name in names},
        )
    except (KeyError, ValueError) as error:
        raise PatchError(f"the patch lacks {error}") from error


def apply_patch(patch: Patch, base: Path, output: Path) -> None:
    """Write to `output` the corrected copy of the checkpoint in folder `base`.

    `output` appears complete or not at all. Raises `WrongCheckpointError` when the base's
    weights are not those of the patch, `FileExistsError` when `output` exists.
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
        tensor = _find_matrix(tensors, name, int(selected[-1]))
        tensor.file.chmod(0o644)
        view = _view(tensor, "r+")
        view[:, selected] = patch.originals[name] if revert else 0
        view.flush()
        del view


def _find_matrix(tensors: Mapping[str, StoredTensor], name: str, last: int) -> StoredTensor:
    tensor = tensors.get(name)
    if tensor is None or len(tensor.shape) != 2 or last >= tensor.shape[1]:
        raise PatchError(f"the checkpoint has no matrix {name} with an input feature {last}")
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
    except (ValueError, KeyError, TypeError) as error:
        raise PatchError("the file is not an Excise patch") from error
    if version != FORMAT_VERSION:
        raise PatchError(f"patch format {version} is not supported; this build reads 1")
    return dict(description)
