"""Patches from strangers: whatever the bytes, a patch or a `PatchError`, never anything else."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from workers.domain import Granularity
from workers.pruning.patch import METADATA_KEY, Patch, PatchError, parse_patch, serialise_patch

NAME = "model.layers.0.mlp.down_proj.weight"
PATCH = Patch(
    base_sha256="b" * 64,
    corrected_sha256="c" * 64,
    granularity=Granularity.NEURON,
    columns={NAME: np.array([1, 5], dtype=np.int32)},
    originals={NAME: np.arange(8, dtype=np.uint16).reshape(4, 2)},
)
DATA = serialise_patch(PATCH)
DESCRIPTION = {
    "format_version": 1,
    "operation": "zero_columns",
    "granularity": "neuron",
    "base_sha256": "b" * 64,
    "corrected_sha256": "c" * 64,
    "components": 2,
}
TENSORS = {f"{NAME}::columns": PATCH.columns[NAME], f"{NAME}::original": PATCH.originals[NAME]}


def describe(description: Any, tensors: dict[str, np.ndarray] = TENSORS) -> bytes:
    return save(tensors, metadata={METADATA_KEY: json.dumps(description)})


def parse_or_refuse(data: bytes) -> None:
    with suppress(PatchError):
        assert isinstance(parse_patch(data), Patch)


def test_the_description_is_what_the_format_says() -> None:
    length = int.from_bytes(DATA[:8], "little")
    metadata = json.loads(DATA[8 : 8 + length])["__metadata__"]
    assert json.loads(metadata["excise"]) == DESCRIPTION
    assert list(metadata) == ["excise"]


def test_a_patch_described_otherwise_is_still_read() -> None:
    parsed = parse_patch(describe(DESCRIPTION))
    assert parsed.components == PATCH.components
    assert parsed.base_sha256 == PATCH.base_sha256


@pytest.mark.parametrize("key", sorted(set(DESCRIPTION) - {"operation", "components"}))
def test_an_incomplete_description_is_refused(key: str) -> None:
    left = {name: value for name, value in DESCRIPTION.items() if name != key}
    with pytest.raises(PatchError):
        parse_patch(describe(left))


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_version_is_refused(version: Any) -> None:
    with pytest.raises(PatchError, match="this build reads 1"):
        parse_patch(describe(DESCRIPTION | {"format_version": version}))


@pytest.mark.parametrize("granularity", ["head", "", None, 5])
def test_another_granularity_is_refused(granularity: Any) -> None:
    with pytest.raises(PatchError):
        parse_patch(describe(DESCRIPTION | {"granularity": granularity}))


@pytest.mark.parametrize("description", [[], "x", 5, None, {"x": 1}])
def test_a_description_of_another_kind_is_refused(description: Any) -> None:
    with pytest.raises(PatchError, match="not an Excise patch"):
        parse_patch(describe(description))


def test_columns_without_originals_are_refused() -> None:
    with pytest.raises(PatchError, match="lacks"):
        parse_patch(describe(DESCRIPTION, {f"{NAME}::columns": PATCH.columns[NAME]}))


COLUMNS, ORIGINAL = PATCH.columns[NAME], PATCH.originals[NAME]
UNSOUND: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "nothing": ({}, "no columns"),
    "originals without columns": ({f"{NAME}::original": ORIGINAL}, "lacks columns or original"),
    "halves of two matrices": ({"a::columns": COLUMNS, "b::original": ORIGINAL}, "of 'a'"),
    "something else": (TENSORS | {"more": COLUMNS}, "holds 'more'"),
    **{
        f"{columns.dtype} columns {columns.tolist()}": (
            {"a::columns": columns, "a::original": ORIGINAL},
            complaint,
        )
        for columns, complaint in (
            (COLUMNS.astype(np.int64), "32-bit integers"),
            (COLUMNS.astype(np.uint32), "32-bit integers"),
            (COLUMNS.astype(np.float32), "32-bit integers"),
            (COLUMNS.reshape(1, 2), "32-bit integers"),
            (np.array(1, dtype=np.int32), "32-bit integers"),
            (np.array([], dtype=np.int32), "32-bit integers"),
            (np.array([-1, 5], dtype=np.int32), "ascending order from 0"),
            (np.array([5, 1], dtype=np.int32), "ascending order from 0"),
            (np.array([5, 5], dtype=np.int32), "ascending order from 0"),
            (np.array([2**31 - 1, -(2**31)], dtype=np.int32), "ascending order from 0"),
            (np.array([1], dtype=np.int32), "do not fit its columns"),
            (np.array([1, 2, 3], dtype=np.int32), "do not fit its columns"),
        )
    },
    **{
        f"{original.dtype} originals {original.shape}": (
            {"a::columns": COLUMNS, "a::original": original},
            "do not fit its columns",
        )
        for original in (
            ORIGINAL.astype(np.int16),
            ORIGINAL.astype(np.float32),
            ORIGINAL.astype(bool),
            ORIGINAL.reshape(8),
            ORIGINAL.reshape(2, 4),
            ORIGINAL.reshape(4, 2, 1),
        )
    },
}


@pytest.mark.parametrize(("tensors", "complaint"), UNSOUND.values(), ids=UNSOUND)
def test_unsound_halves_are_refused(tensors: dict[str, np.ndarray], complaint: str) -> None:
    with pytest.raises(PatchError, match=complaint):
        parse_patch(describe(DESCRIPTION, tensors))


@pytest.mark.parametrize("key", ["base_sha256", "corrected_sha256"])
@pytest.mark.parametrize("value", ["", "b" * 63, "b" * 65, "g" * 64, "b" * 64 + "\n", 5, None, []])
def test_a_hash_that_is_none_is_refused(key: str, value: Any) -> None:
    with pytest.raises(PatchError, match=f"lacks {key}, 64 hexadecimal digits"):
        parse_patch(describe(DESCRIPTION | {key: value}))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_deep_nesting_is_refused(text: str) -> None:
    for data in (
        len(text).to_bytes(8, "little") + text.encode(),
        save(TENSORS, metadata={METADATA_KEY: text}),
    ):
        with pytest.raises(PatchError, match="not an Excise patch"):
            parse_patch(data)


NUMBERS = st.integers(-5, 5) | st.integers(-(2**31), 2**31 - 1)
HALVES = st.builds(
    lambda values, dtype, shape: np.array(values, dtype="i8").astype(dtype).reshape(shape),
    st.lists(NUMBERS, min_size=4, max_size=4),
    st.sampled_from(["i4", "u2", "u4", "f4", "i8"]),
    st.sampled_from([(4,), (1, 4), (4, 1), (2, 2), (1, 2, 2)]),
)


@given(st.dictionaries(st.sampled_from(["a::columns", "a::original", "b::columns", "a"]), HALVES))
def test_arbitrary_tensors_are_a_sound_patch_or_refused(tensors: dict[str, np.ndarray]) -> None:
    with suppress(PatchError):
        patch = parse_patch(describe(DESCRIPTION, tensors))
        assert list(patch.columns) == list(patch.originals) == ["a"]
        indices = patch.columns["a"].tolist()
        assert indices
        assert indices == sorted({index for index in indices if index >= 0})
        assert patch.originals["a"].shape == (4 // len(indices), len(indices))
        assert len(patch.components) == len(indices)


def test_a_plain_checkpoint_is_not_a_patch() -> None:
    for metadata in (None, {"format": "pt"}, {METADATA_KEY: "not json"}):
        with pytest.raises(PatchError, match="not an Excise patch"):
            parse_patch(save(TENSORS, metadata=metadata))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(PatchError):
        parse_patch(data)


@given(st.integers(0, len(DATA) - 1))
def test_truncated_patches_are_refused(length: int) -> None:
    with pytest.raises(PatchError):
        parse_patch(DATA[:length])


@given(st.binary(min_size=1, max_size=20))
def test_trailing_bytes_are_refused(tail: bytes) -> None:
    with pytest.raises(PatchError):
        parse_patch(DATA + tail)


@given(st.integers(0, len(DATA) - 1), st.integers(0, 255))
def test_a_spoilt_byte_is_read_or_refused(position: int, byte: int) -> None:
    parse_or_refuse(DATA[:position] + bytes([byte]) + DATA[position + 1 :])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(JSON)
def test_an_arbitrary_header_is_refused(header: Any) -> None:
    text = json.dumps(header).encode()
    with pytest.raises(PatchError):
        parse_patch(len(text).to_bytes(8, "little") + text)


@given(st.fixed_dictionaries({name: st.just(value) | JSON for name, value in DESCRIPTION.items()}))
def test_an_arbitrary_description_is_read_or_refused(description: dict[str, Any]) -> None:
    parse_or_refuse(describe(description))
