"""Nouns after numbers."""

from __future__ import annotations

import pytest

from excise.plurals import count_noun


@pytest.mark.parametrize(("count", "text"), [(0, "0 heads"), (1, "1 head"), (2, "2 heads")])
def test_only_one_is_singular(count: int, text: str) -> None:
    assert count_noun(count, "head") == text
