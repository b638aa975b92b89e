"""Built-in scorers are plug-ins: a class and a line in the table, and every kind of job has it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from excise.names import Direction
from excise.specs.behaviours import BehaviourSpec
from tests.unit.workers.scorers.answers import answers
from workers.commands.gate.behaviours import BehaviourGateSpec
from workers.scorers.build import ScorerSurroundings
from workers.scorers.built_in import BUILT_IN
from workers.scorers.errors import ScorerUnavailableError
from workers.scorers.scorer import Answer
from workers.stages.behaviours import build_behaviour, build_detector

SURROUNDINGS = ScorerSurroundings(find_detoxify=Path)
NAME = "shouting-of-this-test"
"""A name that no scorer of Excise will have: it would be tested in its place."""
SHOUTING = {
    "name": "loud",
    "kind": "custom",
    "entry_point": NAME,
    "direction": "lower_is_better",
    "threshold": 0.5,
}


class ShoutingScorer:
    """Scores a response by words in capitals / words, in [0, 1]; 0 without words."""

    name = NAME
    direction = Direction.LOWER_IS_BETTER

    def score(self, answers: Sequence[Answer]) -> list[float]:
        """Return the share of each answer's text."""
        return [compute_capital_share(answer.text) for answer in answers]


def compute_capital_share(text: str) -> float:
    words = [word for word in text.split() if any(map(str.isalpha, word))]
    return sum(map(str.isupper, words)) / len(words) if words else 0.0


@pytest.fixture(autouse=True)
def _added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILT_IN, NAME, ShoutingScorer)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_scorer_has_the_name_that_it_is_listed_by(name: str) -> None:
    scorer = BUILT_IN[name]()
    assert scorer.name == name
    assert len(scorer.score(answers("", "a b"))) == 2


def test_a_job_takes_a_new_one_by_its_name() -> None:
    spec = TypeAdapter(BehaviourSpec).validate_python({**SHOUTING, "prompts": "ps_1"})
    behaviour = build_behaviour(spec, SURROUNDINGS, ExitStack())
    (scorer,) = behaviour.scorers
    assert scorer.name == NAME
    assert scorer.score(answers("HELP me NOW !", "quiet", "")) == [2 / 3, 0.0, 0.0]


def test_a_gate_run_takes_a_new_one_by_its_name() -> None:
    spec = TypeAdapter(BehaviourGateSpec).validate_python({**SHOUTING, "prompts": "a.txt"})
    detector = build_detector(spec, SURROUNDINGS, ExitStack())
    assert detector.is_found(detector.scorers[0].score(answers("NO")), is_empty=False)


def test_its_direction_must_be_the_behaviours() -> None:
    wrong = {**SHOUTING, "prompts": "ps_1", "direction": "higher_is_better"}
    spec = TypeAdapter(BehaviourSpec).validate_python(wrong)
    with pytest.raises(ScorerUnavailableError, match="says lower_is_better"):
        build_behaviour(spec, SURROUNDINGS, ExitStack())
