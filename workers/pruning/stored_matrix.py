"""Finding, reading and scaling the entries of stored weights that belong to components."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from excise.names import Granularity
from workers.pruning.ablation import scale_values
from workers.pruning.safetensors_files import ITEM_BYTES, StoredTensor

Values = NDArray[Any]

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_FLOATS = {
    "F64": (np.int64, torch.float64),
    "F32": (np.int32, torch.float32),
    "F16": (np.int16, torch.float16),
    "BF16": (np.int16, torch.bfloat16),
}


class PatchError(ValueError):
    """The patch cannot be built or read, or does not fit the checkpoint or the output folder."""


@dataclass(frozen=True)
class Layout:
    """How the components of one granularity are numbered in stored weights.

    A weight is 2-D, `(out, in)` or transposed `(in, out)`, or 3-D with one such matrix per
    fused expert.
    """

    granularity: Granularity
    transposed: bool = False
    head_dim: int | None = None
    """Input features per head; None for other granularities."""

    @property
    def width(self) -> int:
        """Input features (or weights) of one component."""
        return self.head_dim or 1

    def count(self, shape: tuple[int, ...]) -> int:
        """Return the number of components in a weight of this shape."""
        if self.granularity is Granularity.WEIGHT:
            return prod(shape)
        return prod(self._orient_shape(shape)[:-1]) // self.width

    def orient(self, view: Values) -> Values:
        """Return a view of the weight for `entries` to index: output features on the last axis."""
        if self.granularity is Granularity.WEIGHT or self.transposed:
            return view
        return np.swapaxes(view, -1, -2)

    def entries(self, shape: tuple[int, ...], indices: Values) -> tuple[Values, ...]:
        """Return index arrays, one per axis, of the components `(component,)` in `orient(weight)`.

        Indexing by them gives shape `(component * width, out)`, for single weights `(component,)`.
        """
        if self.granularity is Granularity.WEIGHT:
            return np.unravel_index(indices, shape)
        features = self.expand(indices)
        return np.unravel_index(features, self._orient_shape(shape)[:-1])

    def expand(self, indices: Values) -> Values:
        """Return the components' input features as int64; for single weights, their own indices."""
        wide = indices.astype(np.int64)
        if self.head_dim is None:
            return wide
        return (wide[:, None] * self.head_dim + np.arange(self.head_dim)).reshape(-1)

    def find_inputs(self, shape: tuple[int, ...], indices: Values) -> tuple[Values, Values | None]:
        """Return the input feature of each entry of a 2-D weight, and for weights its output.

        Where the granularity is not weights, the second value is None.
        """
        if self.granularity is not Granularity.WEIGHT:
            return self.expand(indices), None
        rows, columns = np.unravel_index(indices, shape)
        return (rows, columns) if self.transposed else (columns, rows)

    def count_outputs(self, shape: tuple[int, ...]) -> int:
        """Return the number of output features of a weight of this shape."""
        return shape[-1] if self.transposed else shape[-2]

    def _orient_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape if self.transposed else (*shape[:-2], shape[-1], shape[-2])


def view_bits(tensor: StoredTensor, mode: Literal["r", "r+"]) -> np.memmap[Any, Any]:
    """Return a stored tensor as a memory map of unsigned integers as wide as its dtype.

    Raises `PatchError` for a dtype of unknown width.
    """
    if tensor.dtype not in ITEM_BYTES:
        raise PatchError(f"{tensor.name} has dtype {tensor.dtype}, which a patch cannot hold")
    dtype = np.dtype(_UNSIGNED[ITEM_BYTES[tensor.dtype]])
    view: np.memmap[Any, Any] = np.memmap(
        tensor.file, dtype=dtype, mode=mode, offset=tensor.start, shape=tensor.shape
    )
    return view


def to_tensor(bits: Values, dtype: str) -> torch.Tensor:
    """Return bits as a tensor of the stored float dtype. Raises `PatchError` for other dtypes."""
    if dtype not in _FLOATS:
        raise PatchError(f"weights of dtype {dtype} can only be set to zero")
    integers, floats = _FLOATS[dtype]
    return torch.from_numpy(np.ascontiguousarray(bits).view(integers)).view(floats)


def to_bits(values: torch.Tensor) -> Values:
    """Return a float tensor's bits as unsigned integers; the inverse of `to_tensor`."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    bits: Values = values.contiguous().view(integers).numpy()
    return bits.view(_UNSIGNED[values.element_size()])


def scale_bits(bits: Values, dtype: str, scale: float) -> Values:
    """Return the bits of stored weights times `scale`, rounded as in memory; 0 clears all bits."""
    if scale == 0:
        return np.zeros_like(bits)
    return to_bits(scale_values(to_tensor(bits, dtype), scale))
