"""What the gates of a correction look at."""

from __future__ import annotations

from excise.specs.correction import RESERVED_NAMES
from workers.gates.gates import CONTRASTS, GENERAL, HARMFUL, LOOK_ALIKES
from workers.stages.checks import REFERENCE


def test_no_behaviour_can_take_the_name_of_a_prompt_set_of_the_gates() -> None:
    assert {REFERENCE, GENERAL, HARMFUL, LOOK_ALIKES, CONTRASTS} == RESERVED_NAMES
