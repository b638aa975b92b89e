"""YAML: as the safe loader reads it, unless a key is given twice."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from excise.intake.duplicates import DuplicateKeyError
from excise.intake.yaml_documents import AmbiguousNumberError, load_yaml

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.integers(2) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(VALUES)
def test_documents_without_duplicates_are_read_as_ever(value: Any) -> None:
    assert load_yaml(yaml.safe_dump(value)) == value


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("refusal: {max_rise: 0}\nkl: {}\nrefusal: {max_rise: 1}\n", "refusal", 3),
        ("a: [{b: 1, b: 2}]", "b", 1),
        ("a: 1\n'a': 2", "a", 2),
        ("16: 1\n0x10: 2", "0x10", 2),
        ("true: 1\nyes: 2", "yes", 2),
        ("1: a\ntrue: b", "true", 2),  # one key to a dict, though not to YAML
        ("x: &x {a: 1}\ny:\n  <<: *x\n  <<: *x\n", "<<", 4),
        ("y:\n  <<: {a: 1, a: 2}\n", "a", 2),
        ("? a\n: 1\n? a\n: 2\n", "a", 3),
        ("=: 1\n=: 2\n", "=", 2),
    ],
)
def test_a_key_given_twice_is_named_with_its_line(text: str, key: str, line: int) -> None:
    with pytest.raises(DuplicateKeyError, match=rf"given twice .*line {line}\)") as caught:
        load_yaml(text)
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("0100", "64"),
        ("010", "8"),
        ("-017", "-15"),
        ("1:04", "64"),
        ("1:30.5", "90.5"),
        ("00", "0"),
    ],
)
def test_numbers_that_are_not_what_they_look_like_are_refused(written: str, value: str) -> None:
    words = rf"^{re.escape(written)} \(line 2\) would be {re.escape(value)}, .*without either"
    for text in (f"a: 1\nb: {written}", f"a: 1\n{written}: b", f"a: 1\nb: [{written}]"):
        with pytest.raises(AmbiguousNumberError, match=words):
            load_yaml(text)
    assert load_yaml(f"b: '{written}'") == {"b": written}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *(("0", 0), ("-0", 0), ("100", 100), ("0x10", 16), ("0b11", 3), ("1_000", 1000)),
        *(("0.5", 0.5), ("-0.25", -0.25), (".5", 0.5), ("00.5", 0.5)),
        *(("1e-05", "1e-05"), ("1.0e-05", 1e-5)),
    ],
)
def test_other_numbers_are_read_as_ever(written: str, value: object) -> None:
    assert load_yaml(written) == value == yaml.safe_load(written)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1: a\n'1': b", {1: "a", "1": "b"}),
        ("a: {a: 1}\nb: {a: 2}", {"a": {"a": 1}, "b": {"a": 2}}),
        (
            "x: &x {a: 1, b: 1}\ny: {<<: *x, a: 2}",
            {"x": {"a": 1, "b": 1}, "y": {"a": 2, "b": 1}},
        ),
        ("x: &x {a: 1}\ny: {<<: [*x, {a: 2}]}", {"x": {"a": 1}, "y": {"a": 1}}),
        ("- &a {k: 1}\n- *a\n- *a", [{"k": 1}] * 3),
    ],
)
def test_overriding_what_is_merged_and_naming_a_part_twice_are_fine(text: str, value: Any) -> None:
    assert load_yaml(text) == value == yaml.safe_load(text)


@pytest.mark.parametrize("text", ["!!python/object/apply:os.getcwd []", "[a]: 1\n{b: 1}: 2", "{"])
def test_code_odd_keys_and_broken_files_are_refused_as_ever(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)
