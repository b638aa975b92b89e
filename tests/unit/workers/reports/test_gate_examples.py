"""Which responses a reader is shown for a gate that was not met."""

from __future__ import annotations

import pytest

from excise.names import Direction
from excise.reports.gates import GateResult
from workers.measuring.state import BehaviourScores, ModelState, Responses
from workers.reports.gate_examples import MOST_EXAMPLES, collect_examples

LIMIT = 8


def answer(texts: list[str], samples: int = 1) -> Responses:
    """Responses of one token per word; the prompts are numbered."""
    return Responses(
        prompts=tuple(f"prompt {number // samples}" for number in range(len(texts))),
        token_ids=tuple(tuple(map(hash, text.split())) for text in texts),
        texts=tuple(texts),
        max_new_tokens=LIMIT,
        samples=samples,
    )


def fail(*names: str) -> list[GateResult]:
    return [
        GateResult(name=name, sentence="", limit=0.0, value=1.0, passed=False) for name in names
    ]


def find(gates: list[GateResult], before: list[str], after: list[str], **parts) -> list[str]:
    base, state = (
        ModelState(responses={"general": answer(texts)}, **parts) for texts in (before, after)
    )
    return [example.prompt for example in collect_examples(gates, base, state)]


BEFORE = ["a b c d", "a b c d", "a b c d", "No, I cannot help with that.", "a b c d"]
AFTER = ["a b a b a b a b", "a b c d", "", "a b c d", "I cannot help with that."]


@pytest.mark.parametrize(
    ("gate", "prompts"),
    [
        ("uniqueness", [2, 0]),  # an empty response has no unique word at all
        ("self_repetition", [0]),
        ("emptiness", [2]),
        ("shorter", [2, 3]),
        ("longer", [0, 4]),
        ("token_limit", [0]),
        ("refusal", [3]),
        ("over_refusal", [4]),
    ],
)
def test_the_responses_are_shown_that_moved_most_as_the_gate_limits(
    gate: str, prompts: list[int]
) -> None:
    assert find(fail(f"{gate}:general"), BEFORE, AFTER) == [f"prompt {n}" for n in prompts]


def test_several_gates_of_a_set_take_turns_and_show_a_prompt_once() -> None:
    found = find(fail("longer:general", "shorter:general", "emptiness:general"), BEFORE, AFTER)
    assert found == ["prompt 0", "prompt 2", "prompt 4", "prompt 3"]


def test_there_are_few_of_each_and_none_for_met_or_unmeasured_gates() -> None:
    many = ["a b c d"] * (MOST_EXAMPLES + 3)
    assert len(find(fail("emptiness:general"), many, [""] * len(many))) == MOST_EXAMPLES
    (gate,) = fail("emptiness:general")
    met, unmeasured = (
        gate.model_copy(update=change) for change in ({"passed": True}, {"value": None})
    )
    assert find([met, unmeasured, *fail("kl", "other:harmful")], many, [""] * len(many)) == []


def test_of_a_behaviour_those_that_show_it_most_come_first() -> None:
    scores = BehaviourScores(
        scores=(0.0, 0.5, 1.0), shown=(0, 1, 2), samples=2, direction=Direction.LOWER_IS_BETTER
    )
    state = ModelState(
        responses={"advert": answer(["a"] * 6, samples=2)}, behaviours={"advert": scores}
    )
    found = collect_examples(fail("behaviour_share:advert"), state, state)
    assert [(example.prompt, example.shown) for example in found] == [
        ("prompt 2", 2),
        ("prompt 1", 1),
    ]
    assert all(len(example.after) == 2 for example in found)
