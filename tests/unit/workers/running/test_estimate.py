"""The remaining time follows from the pace of the running stage."""

import pytest

from excise.names import STAGES
from workers.running.estimate import STAGE_SHARES, estimate_remaining_seconds


@pytest.mark.parametrize("kind", STAGES)
def test_shares_cover_the_stages_of_every_kind(kind):
    assert tuple(STAGE_SHARES[kind]) == STAGES[kind]
    assert sum(STAGE_SHARES[kind].values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", STAGES)
def test_half_of_the_first_stage(kind):
    share = STAGE_SHARES[kind]["prepare"]
    remaining = estimate_remaining_seconds(kind, "prepare", 5, 10, 10.0)
    assert remaining == pytest.approx(20 / share * (1 - share / 2))


def test_the_end_of_the_last_stage():
    assert estimate_remaining_seconds("correction", "package", 3, 3, 4.0) == pytest.approx(0)


def test_nothing_done_gives_no_estimate():
    assert estimate_remaining_seconds("circuit", "discover", 0, 10, 3.0) is None
