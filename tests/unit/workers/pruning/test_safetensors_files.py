"""Safetensors as bytes: the hash sees every bit and no sharding, and broken files are named."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from workers.pruning.safetensors_files import (
    SafetensorsFormatError,
    compute_checkpoint_sha256,
    list_tensors,
)

TENSORS = {
    "b": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "a": torch.tensor([1.0, -0.0, 3.0], dtype=torch.bfloat16),
    "empty": torch.zeros(0, 4),
    "scalar": torch.tensor(5, dtype=torch.int64),
}


def write(folder: Path, *files: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    for index, tensors in enumerate(files):
        save_file(tensors, folder / f"model-{index}.safetensors")
    return folder


def write_raw(folder: Path, data: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(data)
    return folder


def frame(header: Any, body: bytes = b"") -> bytes:
    return frame_text(json.dumps(header).encode(), body)


def frame_text(text: bytes, body: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text + body


def describe(**changes: Any) -> dict[str, Any]:
    return {"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


def test_places_are_where_the_bytes_lie(tmp_path: Path) -> None:
    found = list_tensors(write(tmp_path / "x", TENSORS))
    assert set(found) == set(TENSORS)
    for name, tensor in TENSORS.items():
        stored = found[name]
        data = stored.file.read_bytes()[stored.start : stored.end]
        assert data == tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        assert stored.shape == tuple(tensor.shape)
    assert {name: place.dtype for name, place in found.items()} == {
        "a": "BF16",
        "b": "F32",
        "empty": "F32",
        "scalar": "I64",
    }


def test_the_hash_does_not_see_sharding_or_other_files(tmp_path: Path) -> None:
    whole = compute_checkpoint_sha256(write(tmp_path / "whole", TENSORS))
    shards = [{name: tensor} for name, tensor in TENSORS.items()]
    folder = write(tmp_path / "shards", *shards)
    (folder / "config.json").write_text("{}")
    assert compute_checkpoint_sha256(folder) == whole
    assert compute_checkpoint_sha256(write(tmp_path / "turned", *shards[::-1])) == whole


def test_the_hash_does_not_see_metadata(tmp_path: Path) -> None:
    whole = compute_checkpoint_sha256(write(tmp_path / "whole", TENSORS))
    folder = tmp_path / "described"
    folder.mkdir()
    save_file(TENSORS, folder / "x.safetensors", metadata={"format": "pt", "note": "hello"})
    assert compute_checkpoint_sha256(folder) == whole


@pytest.mark.parametrize(
    "change",
    [
        {"a": torch.tensor([1.0, 0.0, 3.0], dtype=torch.bfloat16)},
        {"a": TENSORS["a"].view(torch.float16)},
        {"b": TENSORS["b"].reshape(3, 2)},
        {"scalar": torch.tensor(6, dtype=torch.int64)},
        {"empty": torch.zeros(4, 0)},
        {"more": torch.zeros(1)},
    ],
    ids=["sign of zero", "dtype", "shape", "value", "empty shape", "another tensor"],
)
def test_the_hash_sees_every_difference(tmp_path: Path, change: dict[str, torch.Tensor]) -> None:
    before = compute_checkpoint_sha256(write(tmp_path / "before", TENSORS))
    assert compute_checkpoint_sha256(write(tmp_path / "after", TENSORS | change)) != before


def test_the_hash_sees_names_and_which_bytes_belong_to_them(tmp_path: Path) -> None:
    one, two = torch.tensor([1.0]), torch.tensor([2.0])
    hashes = {
        compute_checkpoint_sha256(write(tmp_path / str(index), tensors))
        for index, tensors in enumerate(
            ({"x": one, "y": two}, {"x": two, "y": one}, {"x": one, "z": two})
        )
    }
    assert len(hashes) == 3


def test_the_hash_sees_any_single_bit(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", {"t": torch.zeros(4)})
    stored = list_tensors(folder)["t"]
    clean = stored.file.read_bytes()
    seen = {compute_checkpoint_sha256(folder)}
    for bit in range(8 * (stored.end - stored.start)):
        flipped = bytearray(clean)
        flipped[stored.start + bit // 8] ^= 1 << bit % 8
        stored.file.write_bytes(flipped)
        seen.add(compute_checkpoint_sha256(folder))
    assert len(seen) == 1 + 8 * 16


def test_replaced_values_give_the_hash_of_the_checkpoint_to_come(tmp_path: Path) -> None:
    changed = TENSORS | {"b": TENSORS["b"] * 2, "a": -TENSORS["a"]}
    before, after = write(tmp_path / "x", TENSORS), write(tmp_path / "y", changed)
    replaced = {
        "b": changed["b"].numpy().T.copy().T,  # not C-contiguous
        "a": changed["a"].view(torch.int16).numpy().view(np.uint16),
    }
    assert compute_checkpoint_sha256(
        before, lambda tensor: replaced.get(tensor.name)
    ) == compute_checkpoint_sha256(after)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(SafetensorsFormatError, match=r"holds no \*\.safetensors"):
        list_tensors(tmp_path)


def test_the_hash_is_that_of_the_indexed_shards(tmp_path: Path) -> None:
    halves = [{"a": TENSORS["a"], "b": TENSORS["b"]}, {"empty": TENSORS["empty"]}]
    plain, mistral = write(tmp_path / "plain", *halves), write(tmp_path / "mistral", *halves)
    places = {
        "a": "model-0.safetensors",
        "b": "model-0.safetensors",
        "empty": "model-1.safetensors",
    }
    index = json.dumps({"weight_map": places})
    (mistral / "model.safetensors.index.json").write_text(index)
    save_file({"c": torch.ones(1)}, mistral / "model-2.safetensors")
    save_file({"layers.a": torch.ones(1)}, mistral / "consolidated.safetensors")
    assert compute_checkpoint_sha256(mistral) == compute_checkpoint_sha256(plain)


def test_the_hash_of_an_ordinary_folder_is_what_it_ever_was(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    save_file({"b": torch.arange(3.0), "a": torch.zeros(2, 2)}, folder / "model.safetensors")
    content = b'["a","F32",[2,2]]' + b"\0" * 16 + b'["b","F32",[3]]'
    content += torch.arange(3.0).numpy().tobytes()
    assert compute_checkpoint_sha256(folder) == hashlib.sha256(content).hexdigest()


def test_files_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", {"t": torch.zeros(1)})
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"t": "y.safetensors"}}')
    with pytest.raises(SafetensorsFormatError, match=r"'y\.safetensors' is missing"):
        list_tensors(folder)


@pytest.mark.timeout(20)
def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", {"t": torch.zeros(1)})
    before = compute_checkpoint_sha256(folder)
    os.mkfifo(folder / "x.safetensors")
    assert compute_checkpoint_sha256(folder) == before


def test_a_name_twice_in_one_header_is_refused(tmp_path: Path) -> None:
    entry = b'"t": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
    folder = write_raw(tmp_path, frame_text(b"{" + entry + b"," + entry + b"}", b"0000"))
    with pytest.raises(SafetensorsFormatError, match="'t' is given twice"):
        list_tensors(folder)


def test_a_name_stored_twice_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", {"t": torch.zeros(1)}, {"t": torch.ones(1)})
    with pytest.raises(SafetensorsFormatError, match="tensor t is stored twice"):
        list_tensors(folder)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "bad header length"),
        (b"\1\0\0", "bad header length"),
        (b"\xff" * 40, "bad header length"),
        ((9).to_bytes(8, "little") + b"12345678", "bad header length"),
        ((8).to_bytes(8, "little") + b"not json", "not JSON"),
        ((2).to_bytes(8, "little") + b"\xff\xfe", "not JSON"),
        (frame({"t": {}}), "described badly"),
        (frame({"t": "F32"}), "described badly"),
        (frame(describe(shape=None), b"8" * 8), "described badly"),
        (frame(describe(shape=["x"]), b"8" * 8), "described badly"),
        (frame(describe(data_offsets=[0]), b"8" * 8), "described badly"),
        (frame(describe(data_offsets=[0, 8, 16]), b"8" * 8), "described badly"),
        (frame(describe(), b"8" * 7), "lies outside the file"),
        (frame(describe(data_offsets=[-4, 4]), b"8" * 8), "lies outside the file"),
        (frame(describe(data_offsets=[8, 0]), b"8" * 8), "lies outside the file"),
        *[(frame(header), "not a JSON object") for header in (None, 5, "t", [describe()], [])],
        (frame_text(b"[" * 100_000), "not JSON"),
        (frame_text(b'{"t":' * 100_000), "not JSON"),
        *[
            (frame(describe(dtype=dtype), b"8" * 8), "described badly")
            for dtype in (None, 5, ["F32"], {})
        ],
        *[
            (frame(describe(shape=shape), b"8" * 8), "described badly")
            for shape in (2, "2", [math.inf], [math.nan], [2.0], [True], [None], [[2]], {"2": 2})
        ],
        *[
            (frame(describe(data_offsets=offsets), b"8" * 8), "described badly")
            for offsets in (8, [0, math.inf], [0.0, 8.0], [False, 8], ["0", "8"], {"0": 8})
        ],
        (frame(describe(shape=[-2]), b"8" * 8), "negative axis"),
        (frame(describe(shape=[-1, -2]), b"8" * 8), "negative axis"),
        (frame(describe(dtype="F4", shape=[-1]), b"8" * 8), "negative axis"),
        *[
            (frame(describe(shape=shape), b"8" * 8), "does not fill its place")
            for shape in ([], [0], [1], [3], [2, 2], [10**30, 10**30])
        ],
        (frame(describe(dtype="F64"), b"8" * 8), "does not fill its place"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, data: bytes, complaint: str) -> None:
    folder = write_raw(tmp_path, data)
    with pytest.raises(SafetensorsFormatError, match=complaint):
        list_tensors(folder)
    with pytest.raises(SafetensorsFormatError):
        compute_checkpoint_sha256(folder)


def test_an_unknown_dtype_is_listed_as_it_is(tmp_path: Path) -> None:
    folder = write_raw(tmp_path, frame(describe(dtype="F4", shape=[16]), b"8" * 8))
    stored = list_tensors(folder)["t"]
    assert (stored.dtype, stored.shape, stored.end - stored.start) == ("F4", (16,), 8)


def read_anything(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = write_raw(Path(name), data)
        with suppress(SafetensorsFormatError):
            assert len(compute_checkpoint_sha256(folder)) == 64


@given(st.binary(max_size=80))
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    read_anything(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 30) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "U8", "X", ""]) | JSON,
        "shape": st.lists(st.integers(-3, 9), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-3, 20), max_size=3) | JSON,
    },
)


@given(JSON, st.binary(max_size=20))
def test_arbitrary_headers_are_read_or_refused(header: Any, body: bytes) -> None:
    read_anything(frame(header, body))


@given(
    st.dictionaries(st.text(max_size=5), ENTRIES | JSON, max_size=4),
    st.binary(max_size=20),
)
def test_arbitrary_descriptions_are_read_or_refused(header: dict[str, Any], body: bytes) -> None:
    read_anything(frame(header, body))
