"""JSON: as the standard library reads it, unless a key is given twice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from excise.intake.duplicates import DuplicateKeyError
from excise.intake.json_documents import (
    find_part,
    is_non_finite,
    load_json,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_documents_without_duplicates_are_read_as_ever(value: Any) -> None:
    text = json.dumps(value)
    assert load_json(text) == load_json(text.encode()) == value


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"a": 1, "b": 2, "a": 1}', "a"),
        ('{"x": [{"b": {"c": 1, "c": null}}]}', "c"),
        ('{"caf\\u00e9": 1, "café": 2}', "café"),
        ('{"": 1, "": 2}', ""),
    ],
)
def test_a_key_given_twice_is_named(text: str, key: str) -> None:
    with pytest.raises(DuplicateKeyError, match=r"given twice\. Keep one") as caught:
        load_json(text)
    assert caught.value.key == key


def test_the_same_key_of_several_objects_is_fine() -> None:
    assert load_json('[{"a": {"a": 1}}, {"a": 2}]') == [{"a": {"a": 1}}, {"a": 2}]


def test_a_long_key_is_shown_in_part_and_on_one_line() -> None:
    key = "\n" * 5000
    with pytest.raises(DuplicateKeyError) as caught:
        load_json(f"{{{json.dumps(key)}: 1, {json.dumps(key)}: 2}}")
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_what_is_no_json_is_still_no_json() -> None:
    with pytest.raises(json.JSONDecodeError):
        load_json('{"a": 1')


def test_a_part_is_found_in_the_order_of_the_document_however_deep_it_lies() -> None:
    document: object = {"a": [1, {"b": (2.0, float("nan"))}], "c": float("inf")}
    assert find_part(document, is_non_finite, "spec") == "spec.a[1].b[1]"
    assert find_part({"a": [True, None, "NaN", 1e308]}, is_non_finite, "spec") is None
    for _ in range(5000):
        document = [document]
    assert str(find_part(document, is_non_finite, "spec")).endswith("[0].a[1].b[1]")
