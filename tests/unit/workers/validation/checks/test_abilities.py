"""Abilities against their limits: what is lost, and what only rounding would call lost."""

from __future__ import annotations

import pytest

from service.jobs.specs.abilities import AbilitiesGateSpec
from workers.abilities.catalogue import SLICES
from workers.abilities.state import SliceFigures
from workers.validation.checks.abilities import compare_slices, judge_abilities

JSON = next(kind for kind in SLICES if kind.name == "json")


def figures(right: int) -> SliceFigures:
    """Sixty items of one token, so many of them right."""
    marks = (1,) * right + (0,) * (60 - right)
    return SliceFigures(nats=(0.5,) * 60, right=marks, tokens=(1,) * 60, leads=(0.0,) * 60)


@pytest.mark.parametrize(("after", "within"), [(45, True), (44, False)])
def test_a_fall_of_exactly_the_limit_is_within_it(after: int, within: bool) -> None:
    base, changed = {"json": figures(48)}, {"json": figures(after)}
    changes = compare_slices([JSON], base, changed, {}, AbilitiesGateSpec())
    assert [change.within for change in changes] == [within]
    assert judge_abilities(changes).passed is within
