from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from service.serving.canary import (
    BehaviourCheck,
    CanaryAnswer,
    CanaryAnswers,
    CanaryDocument,
    CanaryPrompt,
    ScoredResponse,
    compute_uniqueness,
    judge_canary,
)

BASE, CORRECTED = (1, 2, 3, 4), (1, 2, 8, 9)


def make_prompt(**changes: Any) -> CanaryPrompt:
    values: dict[str, Any] = {
        "prompt_token_ids": (5, 6),
        "max_tokens": 4,
        "base_token_ids": BASE,
        "corrected_token_ids": CORRECTED,
        "base_logprobs": (-0.1, -0.2, -0.3, -0.4),
        "corrected_logprobs": (-0.5, -0.6, -0.7, -0.8),
        "base_margins": (2.0, 2.0, 2.0, 2.0),
        "corrected_margins": (2.0, 2.0, 2.0, 0.05),
    }
    return CanaryPrompt(**(values | changes))


def make_document(dtype: str = "float32", **changes: Any) -> CanaryDocument:
    values: dict[str, Any] = {
        "dtype": dtype,
        "tolerance": 0.1,
        "prompts": (make_prompt(),) * 16,
    }
    return CanaryDocument(**(values | changes))


def answer(document: CanaryDocument, **changes: Any) -> CanaryAnswers:
    prompts = document.prompts
    answers = CanaryAnswers(
        corrected=[CanaryAnswer(p.corrected_token_ids, p.corrected_logprobs) for p in prompts],
        base=[CanaryAnswer(p.base_token_ids, p.base_logprobs) for p in prompts],
    )
    return replace(answers, **changes)


def change(
    answers: CanaryAnswers, side: str, tokens: tuple[int, ...], logprobs: tuple[float, ...]
) -> CanaryAnswers:
    """The answers with the third of a side replaced."""
    given = list(getattr(answers, side))
    given[2] = CanaryAnswer(tokens, logprobs)
    return replace(answers, **{side: given})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_builders_own_answers_pass(dtype: str) -> None:
    document = make_document(dtype)
    assert judge_canary(document, answer(document)) == []
    assert judge_canary(document, answer(document, base=())) == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("side", "tokens", "other"), [("base", CORRECTED, "corrected"), ("corrected", BASE, "base")]
)
def test_an_answer_of_the_other_model_is_a_leak(
    dtype: str, side: str, tokens: tuple[int, ...], other: str
) -> None:
    document = make_document(dtype)
    own = getattr(document.prompts[0], f"{side}_logprobs")
    answers = change(answer(document), side, tokens, (*own[:2], -9.0, -9.0))
    (problem,) = judge_canary(document, answers)
    assert problem.code == "leak"
    assert problem.message == (f"Prompt 3, {side}: the {other} model answered instead of this one.")


def test_any_other_difference_is_named_with_its_place() -> None:
    document = make_document()
    answers = change(answer(document), "corrected", (1, 2, 8, 0), ())
    (problem,) = judge_canary(document, answers)
    assert problem.code == "tokens"
    assert "token 4 of 4 differs: expected [9], got [0]" in problem.message
    shorter = change(answer(document), "corrected", (1, 2), ())
    assert "token 3 of 4 differs" in judge_canary(document, shorter)[0].message


def test_without_float32_a_near_tie_may_go_the_other_way() -> None:
    document = make_document("bfloat16")
    logprobs = (-0.5, -0.6, -0.7, -0.9)
    assert (
        judge_canary(document, change(answer(document), "corrected", (1, 2, 8, 0), logprobs)) == []
    )
    (problem,) = judge_canary(
        document, change(answer(document), "corrected", (1, 7, 8, 0), logprobs)
    )
    assert problem.code == "tokens"


@pytest.mark.parametrize(
    ("logprobs", "message"),
    [
        ((-0.5, -0.75, -0.7, -0.8), "token 2 has a log-probability 0.15 nats off"),
        ((-0.5, float("nan"), -0.7, -0.8), "token 2 has a log-probability nan nats off"),
        ((), "log-probabilities are missing"),
    ],
)
def test_without_float32_log_probabilities_count(logprobs: tuple[float, ...], message: str) -> None:
    document = make_document("bfloat16")
    (problem,) = judge_canary(document, change(answer(document), "corrected", CORRECTED, logprobs))
    assert problem.code == "logprobs"
    assert message in problem.message


def test_a_canary_that_cannot_tell_the_models_apart_passes_nobody() -> None:
    same = make_prompt(corrected_token_ids=BASE, corrected_logprobs=(-0.1, -0.2, -0.3, -0.4))
    document = make_document(prompts=(same,) * 16)
    (problem,) = judge_canary(document, answer(document))
    assert problem.code == "not_telling"
    assert "Publish again with prompts that show" in problem.message


def test_a_difference_that_rounding_could_make_tells_nothing() -> None:
    tie = make_prompt(corrected_margins=(2.0, 2.0, 0.1, 2.0))
    assert make_document(prompts=(tie,) * 16).telling_prompts == 16
    assert make_document("bfloat16", prompts=(tie,) * 16).telling_prompts == 0


def test_missing_answers_are_a_problem() -> None:
    document = make_document()
    whole = answer(document)
    (problem,) = judge_canary(document, answer(document, corrected=whole.corrected[1:]))
    assert (problem.code, problem.message) == ("missing", "15 answers of 16 arrived (corrected).")
    assert judge_canary(document, answer(document, base=whole.base[:3]))[0].code == "missing"


def make_check(
    metric: str,
    values: tuple[float, float],
    tolerance: float,
    scored: tuple[ScoredResponse, ...] = (),
) -> BehaviourCheck:
    """Of one held-out prompt; `values` are the base's and the correction's."""
    base_value, corrected_value = values
    return BehaviourCheck(
        metric=metric,
        prompt_token_ids=(1,),
        max_tokens=4,
        base_value=base_value,
        corrected_value=corrected_value,
        tolerance=tolerance,
        scored=scored,
    )


def test_the_behaviour_of_held_out_prompts_is_compared() -> None:
    check = make_check("response_uniqueness", (0.25, 1.0), tolerance=0.25)
    document = make_document(behaviour=(check, check))
    good, bad = CanaryAnswer((1, 2, 3, 3)), CanaryAnswer((7, 7, 7, 7))
    assert judge_canary(document, answer(document, behaviour=(good, good))) == []
    (problem,) = judge_canary(document, answer(document, behaviour=(good, bad)))
    assert problem.code == "behaviour"
    assert "Held-out prompt 2: response_uniqueness is 0.250" in problem.message
    (missing,) = judge_canary(document, answer(document, behaviour=(good,)))
    assert missing.code == "missing"


def test_a_metric_of_the_workers_is_known_for_what_both_models_say() -> None:
    scored = (
        ScoredResponse(token_ids=BASE, value=0.9),
        ScoredResponse(token_ids=CORRECTED, value=0.1),
    )
    check = make_check("detoxify/original", (0.9, 0.1), tolerance=0.1, scored=scored)
    document = make_document(behaviour=(check,))
    right, base, other = (CanaryAnswer(ids) for ids in (CORRECTED, BASE, (7, 7, 7, 7)))
    assert judge_canary(document, answer(document, behaviour=(right,))) == []
    (problem,) = judge_canary(document, answer(document, behaviour=(base,)))
    assert "detoxify/original is 0.900; the correction's is 0.100" in problem.message
    (problem,) = judge_canary(document, answer(document, behaviour=(other,)))
    assert "neither model says this" in problem.message
    rounded = make_document("bfloat16", behaviour=(check,))
    assert judge_canary(rounded, answer(rounded, behaviour=(other,))) == []
    (problem,) = judge_canary(rounded, answer(rounded, behaviour=(base,)))
    assert problem.code == "behaviour"


def test_a_metric_nobody_here_computes_needs_its_values() -> None:
    with pytest.raises(ValidationError, match="scored is needed"):
        make_check("detoxify/original", (0.9, 0.1), tolerance=0.1)


@pytest.mark.parametrize(
    "changes",
    [
        {"base_logprobs": (-0.1,)},
        {"corrected_margins": (0.1, 0.2)},
        {"max_tokens": 3},
        {"prompt_token_ids": ()},
    ],
)
def test_prompts_that_contradict_themselves_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make_prompt(**changes)


def test_too_few_prompts_are_refused() -> None:
    with pytest.raises(ValidationError):
        make_document(prompts=(make_prompt(),) * 15)


def test_uniqueness() -> None:
    assert compute_uniqueness((1, 1, 2, 3)) == 0.75
    assert compute_uniqueness(()) == 0.0
