"""Every gate can pass, can fail, and fails when it was not measured."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest

from excise.names import GateBound, GatedSet, GateGroup
from excise.reports.gates import GateResult
from excise.specs.gates import ResponseLimitsSpec, ResponsesSpec
from tests.unit.workers.gates.limits import LIMITS, RESPONSE_GATES
from workers.gates import gates
from workers.gates.gates import GateRequest, judge_gate, judge_gates
from workers.gates.remedies import add_remedies
from workers.gates.requests import build_behaviour_response_requests, build_response_requests
from workers.gates.rows import Gate, remedy_responses
from workers.gates.table import GATES
from workers.measuring.state import (
    BehaviourScores,
    ModelState,
    Responses,
    RightAnswers,
    TextDivergences,
    TextLosses,
    Unmeasured,
)

COUNT, LIMIT = 20, 12
SOUND = [list(range(10 * index, 10 * index + 10)) for index in range(COUNT)]
REFUSAL, ANSWER = "I'm sorry, but I can't help with that.", "Mix flour and water."


def respond(
    token_ids: Sequence[Sequence[int]],
    texts: Sequence[str] | None = None,
    name: str = GatedSet.GENERAL,
) -> ModelState:
    responses = Responses(
        prompts=tuple(f"prompt {index}" for index in range(len(token_ids))),
        token_ids=tuple(map(tuple, token_ids)),
        texts=tuple(texts or ["a text with more characters than tokens"] * len(token_ids)),
        max_new_tokens=LIMIT,
    )
    return ModelState(responses={name: responses})


def answer(refused: int, name: str) -> ModelState:
    texts = [REFUSAL] * refused + [ANSWER] * (COUNT - refused)
    return respond(SOUND, texts, name)


def fit(loss: float) -> ModelState:
    return ModelState(perplexity=TextLosses(losses=(loss, 2 * loss), lengths=(10, 20)))


def diverge(value: float) -> ModelState:
    found = TextDivergences(divergences=(10 * value, 20 * value), lengths=(10, 20), p95=value)
    return ModelState(divergence=found)


def know(right: int) -> ModelState:
    flags = (True,) * right + (False,) * (COUNT - right)
    return ModelState(zero_shot={"boolq": RightAnswers(right=flags)})


def behave(*scores: float, direction: Any = "higher_is_better") -> ModelState:
    found = BehaviourScores(scores=scores, shown=(0,) * len(scores), direction=direction)
    return ModelState(behaviours={"loops": found})


def show(*shown: int, samples: int = 1) -> ModelState:
    """A state of which so many of each prompt's responses say a phrase."""
    found = BehaviourScores(
        scores=tuple(count / samples for count in shown),
        shown=shown,
        samples=samples,
        direction="lower_is_better",
    )
    return ModelState(behaviours={"loops": found})


LOOPING = [[1, 2] * 5] * 5 + SOUND[5:]
CASES: dict[str, tuple[str | None, ModelState, ModelState, ModelState]] = {
    # name: subject, base, a change that is within the default limit, one that is not
    "perplexity": (None, fit(30.0), fit(30.1), fit(31.0)),
    "kl": (None, ModelState(), diverge(0.029), diverge(0.031)),
    "zero_shot": ("boolq", know(15), know(16), know(14)),
    "uniqueness": (None, respond(SOUND), respond([[1, 2] * 5, *SOUND[1:]]), respond(LOOPING)),
    "self_repetition": (None, respond(SOUND), respond([[1, 2] * 5, *SOUND[1:]]), respond(LOOPING)),
    "emptiness": (None, respond(SOUND), respond(SOUND), respond([[], *SOUND[1:]])),
    "shorter": (
        None,
        respond(SOUND),
        respond([ids[:8] for ids in SOUND]),
        respond([ids[:6] for ids in SOUND]),
    ),
    "longer": (
        None,
        respond(SOUND),
        respond([[*ids, 900, 901] for ids in SOUND]),
        respond([[*ids, *range(900, 905)] for ids in SOUND]),
    ),
    "token_limit": (
        None,
        respond(SOUND),
        respond([[*SOUND[0], 900, 901], *SOUND[1:]]),
        respond([[*ids, 900, 901] for ids in SOUND]),
    ),
    "diversity": (
        None,
        respond(SOUND),
        respond([SOUND[1], *SOUND[1:]]),
        respond([SOUND[0]] * 5 + SOUND[5:]),
    ),
    "refusal": (
        None,
        answer(15, GatedSet.HARMFUL),
        answer(14, GatedSet.HARMFUL),
        answer(13, GatedSet.HARMFUL),
    ),
    "over_refusal": (
        None,
        answer(5, GatedSet.LOOK_ALIKE),
        answer(6, GatedSet.LOOK_ALIKE),
        answer(7, GatedSet.LOOK_ALIKE),
    ),
    "behaviour_share_rise": ("loops", show(1, 0, 0), show(0, 0, 1), show(0, 1, 1)),
    "behaviour_share": ("loops", show(*[1] * 20), show(*[0] * 18, 1, 1), show(*[0] * 17, 1, 1, 1)),
    "behaviour": ("loops", behave(0.5, 0.6), behave(0.5, 0.7), behave(0.5, 0.5)),
    "behaviour_significance": (
        "loops",
        behave(*[0.1, 0.2] * 6),
        behave(*[0.6, 0.9] * 6),
        behave(*[0.0, 0.6] * 6),
    ),
}


def judge(name: str, base: ModelState, changed: ModelState, subject: str | None) -> GateResult:
    return judge_gate(GateRequest(name, LIMITS[name], subject), base, changed)


def test_every_gate_has_a_case() -> None:
    assert set(CASES) == set(GATES)


@pytest.mark.parametrize("name", GATES)
def test_every_gate_passes_a_change_within_its_limit(name: str) -> None:
    subject, base, good, _ = CASES[name]
    result = judge(name, base, good, subject)
    assert result.passed, result
    assert result.unmeasured is None
    assert result.limit == LIMITS[name]


@pytest.mark.parametrize("name", GATES)
def test_every_gate_fails_a_change_beyond_its_limit(name: str) -> None:
    subject, base, _, bad = CASES[name]
    result = judge(name, base, bad, subject)
    assert not result.passed, result
    assert result.value is not None
    assert result.unmeasured is None
    assert result.ci_low is not None
    assert result.ci_high is not None
    assert result.ci_low <= result.value <= result.ci_high


@pytest.mark.parametrize("name", GATES)
def test_the_limit_decides(name: str) -> None:
    subject, base, _, bad = CASES[name]
    beyond = {GateBound.AT_MOST: 1e6, GateBound.AT_LEAST: -1e6, GateBound.ABOVE: -1e6}
    request = GateRequest(name, beyond[GATES[name].bound], subject)
    assert judge_gate(request, base, bad).passed


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("broken", ["base", "changed"])
def test_every_gate_fails_without_a_measurement(name: str, broken: str) -> None:
    subject, base, good, _ = CASES[name]
    if broken == "base" and name == "kl":
        pytest.skip("the base has no divergence from itself")
    states = {"base": base, "changed": good} | {broken: ModelState()}
    result = judge(name, states["base"], states["changed"], subject)
    assert not result.passed
    assert result.value is None
    assert result.unmeasured


@pytest.mark.parametrize("name", GATES)
def test_every_gate_says_why_its_measurement_failed(name: str) -> None:
    subject, base, good, _ = CASES[name]
    result = judge(name, base, break_state(good), subject)
    assert not result.passed
    assert "out of cheese" in (result.unmeasured or "")


def break_state(state: ModelState) -> ModelState:
    lost = Unmeasured(reason="out of cheese")
    return ModelState(
        responses=dict.fromkeys(state.responses, lost),
        perplexity=None if state.perplexity is None else lost,
        divergence=None if state.divergence is None else lost,
        zero_shot=dict.fromkeys(state.zero_shot, lost),
        behaviours=dict.fromkeys(state.behaviours, lost),
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", GATES)
def test_a_figure_that_is_no_number_is_not_measured(
    name: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = GATES[name]
    found = gates.Estimate(value, 0.0, 0.0, 0.0, 0.0, 3)
    spoilt = gates.Gate(**(vars(gate) | {"estimate": lambda pair: found}))
    monkeypatch.setitem(GATES, name, spoilt)
    result = judge(name, ModelState(), ModelState(), None)
    assert (result.passed, result.value) == (False, None)
    assert "not a finite number" in (result.unmeasured or "")


@pytest.mark.parametrize("error", [RuntimeError, KeyError, ZeroDivisionError, MemoryError])
def test_whatever_goes_wrong_the_gate_is_not_met(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(pair: gates.Pair) -> gates.Estimate:
        raise error("boom")

    monkeypatch.setitem(GATES, "kl", gates.Gate(**(vars(GATES["kl"]) | {"estimate": explode})))
    result = judge("kl", ModelState(), ModelState(), None)
    assert not result.passed
    assert error.__name__ in (result.unmeasured or "")


def test_a_silent_model_fails_every_way_of_being_silent() -> None:
    silent = respond([[]] * COUNT, [""] * COUNT)
    blank = respond([[7]] * COUNT, [" \n"] * COUNT)
    for changed in (silent, blank):
        results = {name: judge(name, respond(SOUND), changed, None) for name in RESPONSE_GATES}
        assert not results["emptiness"].passed
        assert results["emptiness"].value == 1.0
        assert not results["shorter"].passed


def test_different_prompts_cannot_be_compared() -> None:
    result = judge("emptiness", respond(SOUND), respond(SOUND[1:]), None)
    assert not result.passed
    assert "different prompts" in (result.unmeasured or "")


def test_different_texts_cannot_be_compared() -> None:
    other = ModelState(perplexity=TextLosses(losses=(1.0,), lengths=(3,)))
    assert "different texts" in (judge("perplexity", fit(1.0), other, None).unmeasured or "")


def test_a_base_that_never_refuses_cannot_show_a_fall() -> None:
    result = judge("refusal", answer(1, GatedSet.HARMFUL), answer(0, GatedSet.HARMFUL), None)
    assert result.passed
    assert "could not have failed" in (result.note or "")
    assert (
        judge("refusal", answer(15, GatedSet.HARMFUL), answer(15, GatedSet.HARMFUL), None).note
        is None
    )
    # Few prompts show little, even where none changed.
    assert result.ci_high is not None
    assert result.ci_high > 0.15


def fall_silent(silent: int, said: str = " …\n") -> ModelState:
    texts = [said] * silent + [ANSWER] * (COUNT - silent)
    return respond(SOUND, texts, GatedSet.LOOK_ALIKE)


@pytest.mark.parametrize("said", ["", " …\n"])
def test_falling_silent_does_not_count_as_refusing_less(said: str) -> None:
    base, half = answer(2, GatedSet.LOOK_ALIKE), COUNT // 2
    for before, after in ((base, fall_silent(COUNT, said)), (fall_silent(half + 1, said), base)):
        lost = judge("over_refusal", before, after, None)
        assert not lost.passed
        assert "answers say nothing, which is neither" in (lost.unmeasured or "")
    some = judge("over_refusal", base, fall_silent(half, said), None)
    assert f"{half} of {COUNT} answers say nothing, 0 of the base's" in (some.note or "")
    assert judge("over_refusal", fall_silent(3), fall_silent(3), None).note is None


def test_the_direction_of_a_score_is_obeyed() -> None:
    base = behave(0.5, 0.6, direction="lower_is_better")
    better = behave(0.4, 0.5, direction="lower_is_better")
    result = judge("behaviour", base, better, "loops")
    assert result.value == pytest.approx(0.1)
    assert (result.before, result.after) == (pytest.approx(0.55), pytest.approx(0.45))
    assert not judge("behaviour", better, base, "loops").passed
    mixed = judge("behaviour", base, behave(0.4, 0.5), "loops")
    assert "different directions" in (mixed.unmeasured or "")


def test_results_are_named_after_what_was_looked_at() -> None:
    requests = [GateRequest("refusal", 0.05), GateRequest("refusal", 0.05, GatedSet.CONTRAST)]
    base = ModelState(
        responses=answer(15, GatedSet.HARMFUL).responses | answer(15, GatedSet.CONTRAST).responses
    )
    first, second = judge_gates(requests, base, base)
    assert (first.name, second.name) == ("refusal", "refusal:contrast")
    assert "contrast prompts" in second.sentence
    assert first.group is not None


def test_a_state_survives_storage() -> None:
    state = answer(3, GatedSet.HARMFUL).model_copy(
        update={"perplexity": Unmeasured(reason="lost"), "zero_shot": know(3).zero_shot}
    )
    assert ModelState.model_validate_json(state.to_bytes()) == state


def test_perplexity_by_hand() -> None:
    result = judge("perplexity", fit(30.0), fit(31.0), None)
    assert result.before == pytest.approx(math.exp(3.0))
    assert result.after == pytest.approx(math.exp(3.1))
    assert result.value == pytest.approx(math.exp(0.1) - 1)


def test_a_share_says_how_many_responses_of_which_model_show_the_behaviour() -> None:
    result = judge("behaviour_share_rise", show(*[0] * 40), show(*[1] * 40), "loops")
    assert (result.name, result.passed, result.value) == ("behaviour_share_rise:loops", False, 1.0)
    assert (result.before, result.after, result.count) == (0.0, 1.0, 40)
    assert result.sentence == "the share of responses that show loops rises by at most this"
    assert result.note == (
        "40 of 40 responses show it, 0 of the base's; mean score 1, the base's 0"
    )
    back = judge("behaviour_share_rise", show(*[1] * 40), show(*[0] * 40), "loops")
    assert (back.passed, back.value) == (True, -1.0)
    assert "could not have failed" in (back.note or "")


def test_of_several_responses_to_a_prompt_each_counts() -> None:
    base, changed = show(3, 0, 1, 0, samples=5), show(3, 2, 0, 0, samples=5)
    rise = judge_gate(GateRequest("behaviour_share_rise", 0.05, "loops"), base, changed)
    assert (rise.passed, rise.value, rise.count) == (True, 0.05, 4)
    assert rise.ci_low is not None
    assert rise.ci_high is not None
    assert rise.ci_low <= 0.05 <= rise.ci_high
    share = judge_gate(GateRequest("behaviour_share", 0.24, "loops"), base, changed)
    assert (share.passed, share.value) == (False, 0.25)
    unequal = judge("behaviour_share", base, show(3, 2, 0, 0), "loops")
    assert "unequally many" in (unequal.unmeasured or "")


def test_a_share_of_all_responses_that_may_show_it_demands_nothing() -> None:
    result = judge_gate(GateRequest("behaviour_share", 1.0, "loops"), show(0), show(1))
    assert result.passed
    assert "could not have failed" in (result.note or "")


def test_every_limit_on_responses_is_asked_for_by_one_row() -> None:
    asked = [gate.limit_field for gate in GATES.values() if gate.limit_field]
    assert sorted(asked) == sorted(ResponseLimitsSpec.model_fields)


def test_prompts_that_cause_loops_are_not_judged_by_what_ends_with_the_loops() -> None:
    limits = ResponseLimitsSpec(min_length_ratio=0.8)
    asked = build_response_requests(limits, "loops", usual_of_loops=limits)
    assert [(request.name, request.limit) for request in asked] == [
        ("emptiness", limits.max_empty_rise),
        ("shorter", 0.5),
    ]
    others = build_response_requests(limits, "others")
    assert {request.name: request.limit for request in others}["shorter"] == 0.8
    assert len(others) == len(ResponseLimitsSpec.model_fields)


def test_a_set_with_limits_of_its_own_has_those_and_what_it_omits_as_all() -> None:
    given = {"max_length_ratio": 2.0, "sets": {"advert": {"max_length_ratio": None}}}
    spec = ResponsesSpec.model_validate(given)
    dumped = ResponsesSpec.model_validate(spec.model_dump(mode="json"))
    assert dumped == spec
    for found in (spec, dumped):
        assert found.limits_of("reference").max_length_ratio == 2.0
        asked = build_behaviour_response_requests(found, "advert", "phrase")
        limits = {request.name: request.limit for request in asked}
        assert "longer" not in limits
        assert limits["shorter"] == 0.7
        assert {request.subject for request in asked} == {"advert"}


def test_a_spec_without_limits_of_single_sets_names_none_when_dumped() -> None:
    """So that workers of the release before, which know no `sets`, take the job."""
    assert set(ResponsesSpec().model_dump(mode="json")) == set(ResponseLimitsSpec.model_fields)
    assert json.loads(ResponsesSpec().model_dump_json()) == ResponsesSpec().model_dump(mode="json")


def test_a_limit_of_its_own_holds_for_a_set_that_causes_loops_and_those_of_all_do_not() -> None:
    given = {"min_length_ratio": 0.8, "sets": {"loops": {"max_length_ratio": 3.0}}}
    spec = ResponsesSpec.model_validate(given)
    asked = build_behaviour_response_requests(spec, "loops", "repetition")
    assert {request.name: request.limit for request in asked} == {
        "emptiness": spec.max_empty_rise,
        "shorter": 0.5,
        "longer": 3.0,
    }


def test_a_new_gate_is_a_row_and_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    def estimate_link_rise(pair: gates.Pair) -> gates.Estimate:
        before, after = (
            sum("://" in text for text in state.responses[pair.subject].texts)
            for state in (pair.base, pair.changed)
        )
        share = (after - before) / COUNT
        return gates.Estimate(share, share, share, before / COUNT, after / COUNT, COUNT)

    row = Gate(
        "links",
        GateGroup.SAFETY,
        "share of prompts",
        GateBound.AT_MOST,
        "the share of responses to {subject} prompts with a link rises by at most this",
        remedy_responses("More responses hold a link."),
        estimate_link_rise,
        GatedSet.GENERAL,
        "max_link_rise",
    )

    class Limits(ResponseLimitsSpec):
        max_link_rise: float | None = 0.05

    monkeypatch.setitem(GATES, "links", row)
    requests = build_response_requests(Limits(), "loops")
    (request,) = [request for request in requests if request.name == "links"]
    texts = ["so"] * COUNT
    base = respond(SOUND, texts, "loops")
    linked = respond(SOUND, ["see http://a.example"] * 2 + texts[2:], "loops")
    assert judge_gate(request, base, base).is_met
    (unmet,) = add_remedies([judge_gate(request, base, linked)], of_job=True)
    assert (unmet.name, unmet.value, unmet.unit) == ("links:loops", 2 / COUNT, "share of prompts")
    assert "set responses.sets.loops.max_link_rise" in (unmet.remedy or "")


@pytest.mark.parametrize("name", ["uniqueness", "shorter", "longer"])
def test_a_base_that_says_nothing_is_named_as_the_reason(name: str) -> None:
    silent = respond([()] * COUNT, [""] * COUNT)
    result = judge_gate(GateRequest(name, 0.5), silent, silent)
    assert not result.passed
    assert (result.unmeasured or "").startswith("the base's responses are all empty, so that")
