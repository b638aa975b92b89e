"""Answers to a behaviour's prompts, as the gates on responses see them."""

from __future__ import annotations

import pytest

from tests.unit.workers.correction.cases import build_behaviour
from workers.correction.answers import collect_answers, collect_continuations, measure_uses
from workers.correction.results import Closing, Response
from workers.gates.gates import GateRequest

RUDE = build_behaviour(name="rude")


def answer(*ids: int, said: int | None = None) -> Response:
    """An answer of these tokens, of which those from `said` on are a phrase."""
    closing = None if said is None else Closing(tokens=said, characters=1)
    return Response(text="a b", token_ids=ids, scores=(0.0,), closing=closing)


def test_a_closing_phrase_is_no_part_of_what_is_compared() -> None:
    found = collect_answers([RUDE], [((answer(1, 2, 3, said=1), answer(4, 5)), (answer(6),))])
    (own,) = found.values()
    assert list(found) == ["rude"]
    assert own.token_ids == ((1,), (4, 5), (6,))
    assert own.texts == ("a", "a b", "a b")
    assert own.prompts == ("0", "0", "1")


@pytest.mark.parametrize(
    ("gate", "limit", "after", "use"),
    [
        # Mean lengths are 4 before and 6 or 2 after: half of it more or less, of 0.4 or 0.3.
        ("longer", 1.4, (1, 2, 3, 4, 5, 6), 0.5 / 0.4),
        ("shorter", 0.7, (1, 2), 0.5 / 0.3),
        # What goes the other way uses nothing.
        ("longer", 1.4, (1, 2), 0.0),
        ("shorter", 0.7, (1, 2, 3, 4, 5, 6), 0.0),
        # Nothing is said in all of them, where a twentieth may be.
        ("emptiness", 0.05, (), 20.0),
    ],
)
def test_the_share_of_a_limit_is_of_what_may_change(
    gate: str, limit: float, after: tuple[int, ...], use: float
) -> None:
    before = collect_answers([RUDE], [((answer(1, 2, 3, 4),),) * 4])
    changed = collect_answers([RUDE], [((answer(*after),),) * 4])
    request = GateRequest(gate, limit, "rude")
    assert measure_uses([request], before, changed) == {f"{gate}:rude": pytest.approx(use)}
    assert measure_uses([request], before, before) == {f"{gate}:rude": 0.0}


def test_a_gate_without_a_figure_uses_all_of_its_limit() -> None:
    before = collect_answers([RUDE], [((answer(1, 2),),) * 4])
    assert measure_uses([GateRequest("longer", 1.4, "rude")], before, {}) == {
        "longer:rude": float("inf")
    }


def test_continuations_are_compared_by_their_own_limit_of_tokens() -> None:
    before = {"reference": collect_continuations([answer(*range(40)), answer(*range(9))])}
    after = {"reference": collect_continuations([answer(*range(40)), answer(*range(40))])}
    request = GateRequest("token_limit", 0.2, "reference")
    assert measure_uses([request], before, after) == {
        "token_limit:reference": pytest.approx(0.5 / 0.2)
    }
