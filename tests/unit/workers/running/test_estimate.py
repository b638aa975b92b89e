"""The remaining time follows from the pace of the running stage."""

import pytest

from excise.specs import SPECS
from workers.running.estimate import estimate_remaining_seconds


@pytest.mark.parametrize("kind", SPECS)
def test_the_stages_of_every_kind_share_its_time(kind):
    assert sum(SPECS[kind].stages.values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", SPECS)
def test_half_of_the_first_stage(kind):
    stages = SPECS[kind].stages
    remaining = estimate_remaining_seconds(stages, "prepare", 5, 10, 10.0)
    share = stages["prepare"]
    assert remaining == pytest.approx(20 / share * (1 - share / 2))


def test_the_end_of_the_last_stage():
    stages = SPECS["correction"].stages
    assert estimate_remaining_seconds(stages, "package", 3, 3, 4.0) == pytest.approx(0)


def test_nothing_done_gives_no_estimate():
    assert estimate_remaining_seconds(SPECS["circuit"].stages, "discover", 0, 10, 3.0) is None
