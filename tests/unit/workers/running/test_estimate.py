"""The remaining time of a job follows from the pace of all its stages so far."""

import pytest

from excise.specs import SPECS
from workers.running.estimate import Spent, estimate_job_seconds


@pytest.mark.parametrize("kind", SPECS)
def test_the_stages_of_every_kind_share_its_time(kind):
    assert sum(SPECS[kind].stages.values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", SPECS)
def test_later_stages_take_their_usual_share(kind):
    stages = SPECS[kind].stages
    share = stages["prepare"]
    found = estimate_job_seconds(stages, Spent({}, "prepare", 4.0, 6.0))
    assert found == pytest.approx(6 + 10 / share * (1 - share))


def test_finished_stages_tell_of_the_pace_too():
    stages = {"one": 0.2, "two": 0.3, "three": 0.5}
    spent = Spent({"one": 20.0, "three": 999.0}, "two", 10.0, 5.0)  # three: of an earlier attempt
    assert estimate_job_seconds(stages, spent) == pytest.approx(5 + 35 / 0.5 * 0.5)


def test_the_end_of_the_last_stage():
    stages = SPECS["correction"].stages
    assert estimate_job_seconds(stages, Spent({}, "package", 4.0, 0.0)) == 0
