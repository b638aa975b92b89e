"""What a spec's behaviours become."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from excise.names import Direction
from excise.specs.behaviours import CustomSpec
from workers.correction.behaviour import Marking
from workers.scorers import built_in
from workers.scorers.build import ScorerSurroundings
from workers.stages.behaviours import build_behaviour


class Telling:
    """A scorer that cannot say where."""

    name = "telling"
    direction = Direction.LOWER_IS_BETTER

    def score(self, answers):
        return [1.0 for _ in answers]


class Locating(Telling):
    """One that can."""

    def locate(self, text):
        return [(0, 1)]


@pytest.mark.parametrize(
    ("scorer", "marking"), [(Telling, Marking.RISING), (Locating, Marking.SAID)]
)
def test_a_custom_scorer_that_locates_is_explained_where_it_begins(
    monkeypatch: pytest.MonkeyPatch, scorer: type, marking: Marking
) -> None:
    monkeypatch.setitem(built_in.BUILT_IN, "mine", scorer)
    spec = CustomSpec.model_validate(
        {"name": "mine", "kind": "custom", "prompts": "ps_" + "0" * 24, "entry_point": "mine",
         "direction": "lower_is_better", "threshold": 0.5}
    )  # fmt: skip
    surroundings = ScorerSurroundings(find_detoxify=lambda name: pytest.fail("not asked for"))
    with ExitStack() as resources:
        assert build_behaviour(spec, surroundings, resources).marking is marking
