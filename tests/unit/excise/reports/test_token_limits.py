"""How many answers were cut off, what cannot be seen because of it, and their means."""

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


def test_mean_length_and_uniqueness_stand_beside_it() -> None:
    use = TokenLimitUse(
        subject="general", max_new_tokens=64, responses=40, before=3, after=40,
        length_before=24.84, length_after=64.0, uniqueness_before=0.8125, uniqueness_after=0.25,
    )  # fmt: skip
    line = describe_token_limit(use)
    assert line.startswith(
        "general: 40 of 40 at 64 tokens, 3 of the base's; mean length 64.0, the base's 24.8; "
        "mean uniqueness 0.250, the base's 0.812; nearly all are cut off"
    )


def test_older_reports_say_no_means() -> None:
    use = TokenLimitUse(subject="general", max_new_tokens=64, responses=40, before=3, after=4)
    assert describe_token_limit(use) == "general: 4 of 40 at 64 tokens, 3 of the base's"
