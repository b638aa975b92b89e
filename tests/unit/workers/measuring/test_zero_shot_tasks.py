"""Task rows to questions: the prompts, the right answers, and what a bad row is told."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from excise.names import ZeroShotTask
from workers.measuring.zero_shot_tasks import (
    Choice,
    MalformedRowError,
    Question,
    parse_questions,
    sample_questions,
)

BOOLQ = {"passage": "Tin floats.", "question": "does tin float", "answer": True}
RTE = {"sentence1": "A cat sat.", "sentence2": "A cat ran.", "label": 1, "idx": 0}
HELLASWAG = {"ind": 1, "query": "Cooking: He stirs. Then", "choices": ["he eats.", ", he is."]}
WINOGRANDE = {
    "sentence": "The cup fell off the shelf since _ was round.",
    "option1": "the cup",
    "option2": "the shelf",
    "answer": "2",
}
ARC = {
    "id": "x",
    "question": "What is wet?",
    "choices": {"text": ["water", "sand", "air"], "label": ["A", "B", "C"]},
    "answerKey": "B",
}
OPENBOOKQA = {
    "question_stem": "Wet is",
    "choices": {"text": ["water", "sand"], "label": ["1", "2"]},
    "answerKey": "2",
}
ROWS: dict[ZeroShotTask, dict[str, Any]] = {
    ZeroShotTask.BOOLQ: BOOLQ,
    ZeroShotTask.RTE: RTE,
    ZeroShotTask.HELLASWAG: {**HELLASWAG, "gold": 1},
    ZeroShotTask.WINOGRANDE: WINOGRANDE,
    ZeroShotTask.ARC_EASY: ARC,
    ZeroShotTask.ARC_CHALLENGE: ARC,
    ZeroShotTask.OPENBOOKQA: OPENBOOKQA,
}


def parse(task: ZeroShotTask, *rows: dict[str, Any]) -> tuple[Question, ...]:
    return parse_questions([json.dumps(row) for row in rows], task, "rows.jsonl")


def asked(context: str, *continuations: str) -> tuple[Choice, ...]:
    return tuple(Choice(context, continuation) for continuation in continuations)


EXPECTED = {
    ZeroShotTask.BOOLQ: Question(
        asked("Tin floats.\nQuestion: does tin float?\nAnswer:", " no", " yes"), 1
    ),
    ZeroShotTask.RTE: Question(
        asked("A cat sat.\nQuestion: A cat ran. True or False?\nAnswer:", " True", " False"), 1
    ),
    ZeroShotTask.HELLASWAG: Question(asked("Cooking: He stirs. Then", " he eats.", " , he is."), 1),
    ZeroShotTask.WINOGRANDE: Question(
        (
            Choice("The cup fell off the shelf since the cup", " was round."),
            Choice("The cup fell off the shelf since the shelf", " was round."),
        ),
        1,
    ),
    ZeroShotTask.ARC_EASY: Question(
        asked("Question: What is wet?\nAnswer:", " water", " sand", " air"), 1
    ),
    ZeroShotTask.ARC_CHALLENGE: Question(
        asked("Question: What is wet?\nAnswer:", " water", " sand", " air"), 1
    ),
    ZeroShotTask.OPENBOOKQA: Question(asked("Wet is", " water", " sand"), 1),
}


@pytest.mark.parametrize("task", list(ZeroShotTask))
def test_a_row_becomes_its_prompt(task: ZeroShotTask) -> None:
    assert parse(task, ROWS[task]) == (EXPECTED[task],)


def test_the_other_answers() -> None:
    assert parse(ZeroShotTask.BOOLQ, {**BOOLQ, "answer": False})[0].answer == 0
    assert parse(ZeroShotTask.RTE, {**RTE, "label": 0})[0].answer == 0
    assert parse(ZeroShotTask.WINOGRANDE, {**WINOGRANDE, "answer": "1"})[0].answer == 0
    assert parse(ZeroShotTask.ARC_EASY, {**ARC, "answerKey": "C"})[0].answer == 2


BAD = [
    (ZeroShotTask.BOOLQ, {"answer": "yes"}, "field 'answer' must be true or false, found 'yes'"),
    (ZeroShotTask.BOOLQ, {"passage": " "}, "field 'passage' must be a text, found ' '"),
    (ZeroShotTask.BOOLQ, {"question": None}, "field 'question' must be a text, found None"),
    (ZeroShotTask.RTE, {"label": 2}, "field 'label' must be a whole number from 0 to 1, found 2"),
    (ZeroShotTask.RTE, {"label": True}, "field 'label' must be a whole number"),
    (ZeroShotTask.HELLASWAG, {"gold": 2}, "from 0 to 1, found 2"),
    (ZeroShotTask.HELLASWAG, {"choices": ["one"]}, "field 'choices' must be a list of two texts"),
    (ZeroShotTask.HELLASWAG, {"choices": ["one", 2]}, "field 'choices' must be a list of two"),
    (ZeroShotTask.WINOGRANDE, {"answer": "3"}, "field 'answer' must be '1' or '2', found '3'"),
    (ZeroShotTask.WINOGRANDE, {"sentence": "no gap"}, "field 'sentence' must be a text with a bl"),
    (ZeroShotTask.WINOGRANDE, {"sentence": "a gap _ "}, "words after it"),
    (ZeroShotTask.ARC_EASY, {"answerKey": "D"}, "field 'answerKey' must be one of the labels A, B"),
    (ZeroShotTask.ARC_EASY, {"choices": ["a", "b"]}, "field 'choices' must be an object with"),
    (
        ZeroShotTask.OPENBOOKQA,
        {"choices": {"text": ["a", "b"], "label": ["A", "B", "C"]}},
        "field 'choices' must be an object with as many labels as texts",
    ),
]


@pytest.mark.parametrize(("task", "change", "message"), BAD)
def test_a_bad_row_is_named_by_file_line_and_field(
    task: ZeroShotTask, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(MalformedRowError) as caught:
        parse(task, ROWS[task], {**ROWS[task], **change})
    assert str(caught.value).startswith("rows.jsonl, line 2: ")
    assert message in str(caught.value)


def test_a_key_given_twice_is_refused() -> None:
    line = '{"question": "a", "question": "b", "passage": "c", "answer": true}'
    with pytest.raises(MalformedRowError, match=r"^rows, line 1: the key 'question' is given twic"):
        parse_questions([line], ZeroShotTask.BOOLQ, "rows")


@pytest.mark.parametrize("task", list(ZeroShotTask))
def test_a_missing_field_is_told_as_such(task: ZeroShotTask) -> None:
    with pytest.raises(MalformedRowError, match=r"line 1: field '\w+' must be .*, found nothing"):
        parse(task, {"other": 1})


@pytest.mark.parametrize("line", ["{", "[1]", '"text"'])
def test_a_line_that_is_no_object_is_named(line: str) -> None:
    lines = [json.dumps(BOOLQ), "  ", line]
    with pytest.raises(MalformedRowError, match=r"^rows\.jsonl, line 3: "):
        parse_questions(lines, ZeroShotTask.BOOLQ, "rows.jsonl")


def test_blank_lines_are_passed_over() -> None:
    lines = ["", json.dumps(BOOLQ), "\n"]
    assert len(parse_questions(lines, ZeroShotTask.BOOLQ, "rows.jsonl")) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.sampled_from(list(ZeroShotTask)), st.data())
def test_any_change_of_a_row_parses_or_is_told(task: ZeroShotTask, data: st.DataObject) -> None:
    row = dict(ROWS[task])
    row[data.draw(st.sampled_from(sorted(row)))] = data.draw(JSON)
    with suppress(MalformedRowError):
        (question,) = parse(task, row)
        assert 0 <= question.answer < len(question.choices)


def test_a_sample_is_deterministic_ordered_and_without_repeats() -> None:
    questions = [Question((), index) for index in range(50)]
    drawn = sample_questions(questions, 10, seed=3)
    indices = [question.answer for question in drawn]
    assert indices == sorted(set(indices))
    assert len(indices) == 10
    assert drawn == sample_questions(questions, 10, seed=3)
    assert drawn != sample_questions(questions, 10, seed=4)
    assert len({sample_questions(questions, 1, seed) for seed in range(60)}) > 20
    for limit in (None, 50, 99):
        assert sample_questions(questions, limit, seed=3) == tuple(questions)
