"""Patches from strangers: whatever the bytes, a patch or a `PatchError`, never anything else."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from excise.names import Granularity, Verdict
from workers.pruning.patch_format import (
    METADATA_KEY,
    Patch,
    PatchVerdict,
    WeightChange,
    parse_patch,
    serialise_patch,
)
from workers.pruning.selection import list_indices
from workers.pruning.stored_matrix import Layout, PatchError

MODULE = "model.layers.0.mlp.down_proj"
NAME = f"{MODULE}.weight"
INDICES, ORIGINAL = np.array([1, 5], dtype=np.int32), np.arange(8, dtype=np.uint16).reshape(2, 4)
PATCH = Patch(
    base_sha256="b" * 64,
    corrected_sha256="c" * 64,
    layout=Layout(Granularity.NEURON),
    scale=0.0,
    weights={NAME: WeightChange(MODULE, 0, INDICES, ORIGINAL)},
    biases={},
)
DATA = serialise_patch(PATCH)
DESCRIPTION = {
    "format_version": 2,
    "operation": "zero",
    "granularity": "neuron",
    "scale": 0.0,
    "head_dim": None,
    "transposed": False,
    "base_sha256": "b" * 64,
    "corrected_sha256": "c" * 64,
    "components": 2,
    "tensors": {NAME: {"module": MODULE, "first": 0}},
}
TENSORS = {f"{NAME}::indices": INDICES, f"{NAME}::original": ORIGINAL}


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
    assert list_indices(parsed.selection) == {MODULE: [1, 5]}
    assert parsed.base_sha256 == PATCH.base_sha256


@pytest.mark.parametrize("key", sorted(DESCRIPTION))
def test_an_incomplete_description_is_refused(key: str) -> None:
    left = {name: value for name, value in DESCRIPTION.items() if name != key}
    with pytest.raises(PatchError):
        parse_patch(describe(left))


@pytest.mark.parametrize("version", [0, 4, "1", "2", 2.0, True, None])
def test_another_format_version_is_refused(version: Any) -> None:
    with pytest.raises(PatchError, match="this build reads 1, 2 and 3"):
        parse_patch(describe(DESCRIPTION | {"format_version": version}))


VERDICT = {"format_version": 3, "verdict": "rejected", "unmet_gates": ["kl", "slogan.effect"]}


def test_a_verdict_is_written_and_read_back() -> None:
    found = PatchVerdict(Verdict.REJECTED, ("kl", "slogan.effect"))
    data = serialise_patch(replace(PATCH, verdict=found))
    assert parse_patch(data).verdict == found
    assert data == serialise_patch(parse_patch(data))
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    assert json.loads(metadata["excise"]) == DESCRIPTION | VERDICT
    assert parse_patch(DATA).verdict is None


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "excellent"},
        {"verdict": None},
        {"unmet_gates": "kl"},
        {"unmet_gates": [5]},
        {"unmet_gates": ["x" * 257]},
        {"verdict": "passed"},
        {"format_version": 2},
        {"more": 1},
    ],
)
def test_an_unsound_verdict_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PatchError, match="is unsound"):
        parse_patch(describe(DESCRIPTION | VERDICT | change))


def test_a_description_with_two_verdicts_is_refused() -> None:
    text = json.dumps(DESCRIPTION | VERDICT | {"verdict": "passed", "unmet_gates": []})
    twice = text.replace("{", '{"verdict": "rejected", ', 1)
    with pytest.raises(PatchError, match="the key 'verdict' is given twice"):
        parse_patch(save(TENSORS, metadata={METADATA_KEY: twice}))


@pytest.mark.parametrize("granularity", ["head", "weight", "row", "", None, 5])
def test_another_granularity_is_refused(granularity: Any) -> None:
    with pytest.raises(PatchError):
        parse_patch(describe(DESCRIPTION | {"granularity": granularity}))


@pytest.mark.parametrize("description", [[], "x", 5, None, {"x": 1}])
def test_a_description_of_another_kind_is_refused(description: Any) -> None:
    with pytest.raises(PatchError, match="not an Excise patch"):
        parse_patch(describe(description))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"operation": "mean"}, "describes itself wrongly"),
        ({"operation": "scale"}, "describes itself wrongly"),
        ({"scale": 0.5}, "describes itself wrongly"),
        ({"components": 3}, "describes itself wrongly"),
        ({"granularity": "head"}, "head_dim for heads and for nothing else"),
        ({"head_dim": 1}, "head_dim for heads and for nothing else"),
        ({"head_dim": 0, "granularity": "head"}, "'head_dim' is unsound"),
        ({"granularity": "head", "head_dim": 2}, "do not fit its indices"),
        ({"granularity": "weight"}, "do not fit its indices"),
        ({"tensors": {}}, "'tensors' is unsound"),
        ({"tensors": {NAME: {"module": MODULE, "first": -1}}}, "first' is unsound"),
        ({"tensors": {NAME: {"module": MODULE, "first": 2**48}}}, "first' is unsound.*again"),
        ({"tensors": {NAME: {"module": MODULE, "first": 2**63 - 1}}}, "first' is unsound"),
        ({"tensors": {NAME: {"module": MODULE, "first": 10**30}}}, "first' is unsound"),
        ({"granularity": "head", "head_dim": 2**62}, "'head_dim' is unsound"),
        ({"format_version": 10**3000}, "is not supported"),
        ({"tensors": {"other": {"module": MODULE, "first": 0}}}, "do not make one"),
        (
            {"tensors": DESCRIPTION["tensors"] | {"more": {"module": MODULE, "first": 0}}},
            "lacks the values of 'more'",
        ),
        ({"more": 1}, "'more' is unsound"),
    ],
    ids=str,
)
def test_a_description_that_does_not_fit_is_refused(change: dict, complaint: str) -> None:
    with pytest.raises(PatchError, match=complaint):
        parse_patch(describe(DESCRIPTION | change))


def test_the_largest_components_are_told_by_positive_numbers() -> None:
    last = {**TENSORS, f"{NAME}::indices": np.array([1, 2**48 - 1])}
    tensors = {NAME: {"module": MODULE, "first": 2**48 - 1}}
    patch = parse_patch(describe(DESCRIPTION | {"tensors": tensors}, last))
    assert patch.selection.indices[MODULE].tolist() == [2**48, 2**49 - 2]
    beyond = {**TENSORS, f"{NAME}::indices": np.array([1, 2**48])}
    with pytest.raises(PatchError, match=r"an index of .* is over 281474976710655; make"):
        parse_patch(describe(DESCRIPTION, beyond))


def test_indices_without_originals_are_refused() -> None:
    with pytest.raises(PatchError, match="do not make one"):
        parse_patch(describe(DESCRIPTION, {f"{NAME}::indices": INDICES}))


def test_a_bias_is_read_and_must_keep_its_shape() -> None:
    mean = DESCRIPTION | {"operation": "mean"}
    bias = np.arange(4, dtype=np.uint16)
    parsed = parse_patch(describe(mean, TENSORS | {"b::original": bias, "b::corrected": bias + 1}))
    assert parsed.biases["b"].corrected.tolist() == [1, 2, 3, 4]
    for other in (bias[:3], bias.astype("u4"), bias.reshape(2, 2)):
        with pytest.raises(PatchError, match="differ in shape"):
            parse_patch(describe(mean, TENSORS | {"b::original": bias, "b::corrected": other}))
    both = {"b::original": bias.astype("i2"), "b::corrected": bias.astype("i2")}
    with pytest.raises(PatchError, match="not those of a bias"):
        parse_patch(describe(mean, TENSORS | both))


UNSOUND: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "nothing": ({}, "no components"),
    "originals without indices": ({f"{NAME}::original": ORIGINAL}, "do not make one"),
    "halves of two matrices": ({"a::indices": INDICES, "b::original": ORIGINAL}, "of 'a'"),
    "something else": (TENSORS | {"more": INDICES}, "holds 'more'"),
    **{
        f"{indices.dtype} indices {indices.tolist()}": (
            {f"{NAME}::indices": indices, f"{NAME}::original": ORIGINAL},
            complaint,
        )
        for indices, complaint in (
            (INDICES.astype(np.int16), "32- or 64-bit integers"),
            (INDICES.astype(np.uint32), "32- or 64-bit integers"),
            (INDICES.astype(np.float32), "32- or 64-bit integers"),
            (INDICES.reshape(1, 2), "32- or 64-bit integers"),
            (np.array(1, dtype=np.int32), "32- or 64-bit integers"),
            (np.array([], dtype=np.int32), "32- or 64-bit integers"),
            (np.array([-1, 5], dtype=np.int32), "ascending order from 0"),
            (np.array([5, 1], dtype=np.int32), "ascending order from 0"),
            (np.array([5, 5], dtype=np.int64), "ascending order from 0"),
            (np.array([2**31 - 1, -(2**31)], dtype=np.int32), "ascending order from 0"),
            (np.array([1], dtype=np.int32), "do not fit its indices"),
            (np.array([1, 2, 3], dtype=np.int32), "do not fit its indices"),
        )
    },
    **{
        f"{original.dtype} originals {original.shape}": (
            {f"{NAME}::indices": INDICES, f"{NAME}::original": original},
            "do not fit its indices",
        )
        for original in (
            ORIGINAL.astype(np.int16),
            ORIGINAL.astype(np.float32),
            ORIGINAL.astype(bool),
            ORIGINAL.reshape(8),
            ORIGINAL.reshape(4, 2),
            ORIGINAL.reshape(2, 4, 1),
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
    with pytest.raises(PatchError, match=f"{key}' is unsound"):
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


@given(
    st.dictionaries(
        st.sampled_from([f"{NAME}::indices", f"{NAME}::original", "b::original", "a"]), HALVES
    )
)
def test_arbitrary_tensors_are_a_sound_patch_or_refused(tensors: dict[str, np.ndarray]) -> None:
    with suppress(PatchError):
        patch = parse_patch(describe(DESCRIPTION, tensors))
        ((name, change),) = patch.weights.items()
        assert name == NAME
        indices = change.indices.tolist()
        assert indices == sorted({index for index in indices if index >= 0}) != []
        assert change.original.shape == (len(indices), 4 // len(indices))
        assert len(patch.selection) == len(indices)


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


FORMAT_1 = {
    "format_version": 1,
    "operation": "zero_columns",
    "granularity": "neuron",
    "base_sha256": "b" * 64,
    "corrected_sha256": "c" * 64,
    "components": 2,
}
"""What the first build wrote, with `T::columns` and `T::original` `(out, neuron)`."""


def test_format_1_is_still_read() -> None:
    tensors = {f"{NAME}::columns": INDICES, f"{NAME}::original": np.ascontiguousarray(ORIGINAL.T)}
    parsed = parse_patch(describe(FORMAT_1, tensors))
    assert serialise_patch(parsed) == DATA


@pytest.mark.parametrize(
    "tensors",
    [
        {f"{NAME}::columns": INDICES},
        {f"{NAME}::columns": INDICES, f"{NAME}::original": ORIGINAL},
        {f"{NAME}::columns": INDICES, f"{NAME}::original": ORIGINAL.reshape(8)},
        TENSORS,
    ],
    ids=["half", "not transposed", "flat", "format 2"],
)
def test_unsound_format_1_is_refused(tensors: dict[str, np.ndarray]) -> None:
    with pytest.raises(PatchError):
        parse_patch(describe(FORMAT_1, tensors))
    with pytest.raises(PatchError):
        parse_patch(describe(FORMAT_1 | {"granularity": "head"}, tensors))
