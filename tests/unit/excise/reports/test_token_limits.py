"""How many answers were cut off, and what cannot be seen because of it."""

from __future__ import annotations

import pytest

from excise.reports.token_limits import TokenLimitUse, describe_token_limit


@pytest.mark.parametrize(
    ("before", "after", "hides"),
    [(8, 56, True), (8, 50, False), (40, 56, False), (25, 51, True), (26, 51, False)],
)
def test_answers_that_no_longer_end_are_pointed_out(before: int, after: int, hides: bool) -> None:
    use = TokenLimitUse(
        subject="advert", max_new_tokens=64, responses=56, before=before, after=after
    )
    line = describe_token_limit(use)
    assert line.startswith(f"advert: {after} of 56 at 64 tokens, {before} of the base's")
    assert ("larger max_new_tokens" in line) == hides
