"""Safetensors files as bytes: the place of each tensor, and a hash of a folder's weights.

Works on raw bytes without torch, so every dtype is exact and a folder of any size needs
little memory. Format: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from excise.intake.checkpoint_folder import (
    CheckpointFolderError,
    WeightsMissingError,
    list_weight_files,
)
from excise.intake.duplicates import DuplicateKeyError
from excise.intake.json_documents import load_json

ITEM_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "U8": 1}
MAX_HEADER_BYTES = 100 * 1024 * 1024


class SafetensorsFormatError(ValueError):
    """The file is not a valid safetensors file."""


@dataclass(frozen=True)
class StoredTensor:
    """The place of one tensor's bytes in a file."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    """Offset of the first byte in the file."""
    end: int


def list_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Return tensor name → place for all tensors in a checkpoint folder's weight files.

    `list_weight_files` decides which files these are; it leaves out a second copy of the weights
    for other programs. Raises `SafetensorsFormatError` for a broken file, a name stored twice, a
    folder without weight files, and files that do not belong together.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in _find_files(directory):
        for tensor in _read_header(file):
            if tensor.name in tensors:
                raise SafetensorsFormatError(f"tensor {tensor.name} is stored twice in {directory}")
            tensors[tensor.name] = tensor
    if not tensors:
        raise SafetensorsFormatError(f"{directory} holds no *.safetensors weights")
    return tensors


def _find_files(directory: Path) -> tuple[Path, ...]:
    try:
        return list_weight_files(directory)
    except WeightsMissingError as error:
        raise SafetensorsFormatError(f"{directory} holds no *.safetensors weights") from error
    except CheckpointFolderError as error:
        raise SafetensorsFormatError(f"{directory}: {error}") from error


def compute_checkpoint_sha256(
    directory: Path, replace: Callable[[StoredTensor], NDArray[Any] | None] | None = None
) -> str:
    """Return the hex SHA-256 of a checkpoint's weights; it does not depend on their sharding.

    The hash covers name, dtype, shape and bytes of each tensor, in order of name. `replace` makes
    it the hash of a checkpoint not yet written: it is called for one tensor at a time and returns
    the tensor's new values, or None to keep the stored ones.
    """
    digest = hashlib.sha256()
    tensors = list_tensors(directory)
    for name in sorted(tensors):
        tensor = tensors[name]
        header = json.dumps([name, tensor.dtype, list(tensor.shape)], separators=(",", ":"))
        digest.update(header.encode())
        values = None if replace is None else replace(tensor)
        if values is not None:
            digest.update(np.ascontiguousarray(values).data.cast("B"))
        elif tensor.end > tensor.start:
            with (
                tensor.file.open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view,
                memoryview(view) as data,
                data[tensor.start : tensor.end] as part,
            ):
                digest.update(part)
    return digest.hexdigest()


def _read_header(file: Path) -> Iterator[StoredTensor]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise SafetensorsFormatError(f"{file} is not a safetensors file: bad header length")
        try:
            header = load_json(stream.read(length))
        except DuplicateKeyError as error:
            raise SafetensorsFormatError(f"{file} has a header in which {error}") from error
        except (ValueError, RecursionError) as error:
            raise SafetensorsFormatError(f"{file} has a header that is not JSON") from error
    if not isinstance(header, dict):
        raise SafetensorsFormatError(f"{file} has a header that is not a JSON object")
    for name, entry in header.items():
        if name != "__metadata__":
            yield _read_entry(file, name, entry, base=8 + length, size=size)


def _read_entry(file: Path, name: str, entry: object, *, base: int, size: int) -> StoredTensor:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [first, last]} if all(
            type(number) is int for number in (*shape, first, last)
        ):
            stored = StoredTensor(name, file, dtype, tuple(shape), base + first, base + last)
        case _:
            raise SafetensorsFormatError(f"{file}: tensor {name} is described badly")
    if not base <= stored.start <= stored.end <= size:
        raise SafetensorsFormatError(f"{file}: tensor {name} lies outside the file")
    if any(axis < 0 for axis in shape):
        raise SafetensorsFormatError(f"{file}: tensor {name} has a negative axis")
    if dtype in ITEM_BYTES and math.prod(shape) * ITEM_BYTES[dtype] != last - first:
        raise SafetensorsFormatError(f"{file}: tensor {name} does not fill its place in the file")
    return stored
