"""The remaining time follows from the pace of the running stage."""

import pytest

from workers.tasks.estimate import STAGE_SHARES, estimate_remaining_seconds


def test_shares_cover_the_job():
    assert sum(STAGE_SHARES.values()) == pytest.approx(1)


def test_half_of_the_first_stage():
    share = STAGE_SHARES["prepare"]
    remaining = estimate_remaining_seconds("prepare", 5, 10, 10.0)
    assert remaining == pytest.approx(20 / share * (1 - share / 2))


def test_the_end_of_the_last_stage():
    assert estimate_remaining_seconds("package", 3, 3, 4.0) == pytest.approx(0)


def test_nothing_done_gives_no_estimate():
    assert estimate_remaining_seconds("search", 0, 10, 3.0) is None
