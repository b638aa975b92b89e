from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from excise.names import CircuitMetric
from tests.tiny import build_tiny_tokenizer
from tests.unit.workers.circuits.tokenizers import build_word_tokenizer, find_words
from workers.circuits.greater_than import NOUNS, generate_greater_than
from workers.circuits.ioi import NAMES, PLACES, TEMPLATES, THINGS, generate_ioi
from workers.circuits.tasks import Task, TaskError, TaskRow, parse_rows

TINY = build_tiny_tokenizer()
IOI_WORDS = [*find_words(TEMPLATES), *NAMES, *PLACES, *THINGS]
YEARS_WORDS = [*find_words(["The went on from the year to the year"]), *NOUNS]


def line(**changes: object) -> str:
    fields = {"clean": "w1 w2 w3", "corrupted": "w1 w4 w3", "answer": " w5", "wrong": " w6"}
    return json.dumps(fields | changes)


def test_rows_of_a_file():
    rows = parse_rows([line(), "", line(group="second", answer=" w9")], TINY)
    assert rows[0] == TaskRow((1, 2, 3), (1, 4, 3), (5,), (6,))
    assert rows[1].group == "second"
    assert rows[1].answer_ids == (9,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: not an object"),
        ('{"clean": "w1", "clean": "w2"}', "line 2: the key 'clean' is given twice"),
        (line(clean=3), "line 2, field clean: missing or not a text"),
        (line(answer=""), "line 2, field answer: missing or not a text"),
        (line(group=3), "line 2, field group"),
        (line(corrupted="w1 w4"), "line 2, field corrupted: 2 tokens where clean has 3; swap"),
        (line(corrupted="w1 w2 w3"), "line 2, field corrupted: the same tokens"),
        (line(answer=" w5 w6"), "line 2, field answer: ' w5 w6' is 2 tokens .* one token"),
        (
            line(wrong="w6"),
            "line 2, field wrong: 'w6' merges with .* start the answer with a space",
        ),
        (line(wrong=" w5"), "line 2: answer and wrong begin alike"),
    ],
)
def test_errors_name_line_field_and_remedy(text, message):
    with pytest.raises(TaskError, match=message):
        parse_rows([line(), text], TINY)


def test_a_file_without_rows_is_refused():
    with pytest.raises(TaskError, match="at least one"):
        parse_rows(["", "  "], TINY)


@given(st.text())
def test_any_text_is_rows_or_a_task_error(text):
    try:
        rows = parse_rows(text.splitlines(), TINY)
    except TaskError:
        return
    assert rows


def test_a_task_needs_aligned_rows_with_answers():
    with pytest.raises(TaskError, match="align"):
        Task("t", CircuitMetric.LOGIT_DIFFERENCE, (TaskRow((1, 2), (1,), (3,), (4,)),))
    with pytest.raises(TaskError, match="row 0 has no answer"):
        Task("t", CircuitMetric.LOGIT_DIFFERENCE, (TaskRow((1, 2), (1, 3), (3,), ()),))
    Task("t", CircuitMetric.PROBABILITY_DIFFERENCE, (TaskRow((1, 2), (1, 3), (3,), ()),))


def test_generated_ioi_is_aligned_deterministic_and_about_the_other_name():
    tokenizer = build_word_tokenizer(IOI_WORDS)
    task = generate_ioi(tokenizer, 24, seed=4)

    assert task == generate_ioi(tokenizer, 24, seed=4)
    assert task != generate_ioi(tokenizer, 24, seed=5)
    assert task.metric is CircuitMetric.LOGIT_DIFFERENCE
    assert len({row.group for row in task.rows}) == 2 * len(TEMPLATES)
    lengths: dict[str, set[int]] = {}
    for row in task.rows:
        answer, giver = row.answer_ids[0], row.wrong_ids[0]
        clean, corrupted = list(row.clean_ids), list(row.corrupted_ids)
        assert (clean.count(answer), clean.count(giver)) == (1, 2)
        assert (corrupted.count(answer), corrupted.count(giver)) == (1, 1)
        differing = [index for index in range(len(clean)) if clean[index] != corrupted[index]]
        assert len(differing) == 1
        assert clean[differing[0]] == giver
        assert (clean.index(answer) < clean.index(giver)) is row.group.endswith("ABBA")
        lengths.setdefault(row.group, set()).add(len(clean))
    assert all(len(found) == 1 for found in lengths.values())


def test_ioi_needs_names_of_one_token():
    def spell(text: str, add_special_tokens: bool = True) -> SimpleNamespace:
        """Two known names are too few: any other word is a token for each letter."""
        return SimpleNamespace(input_ids=[1] if text in (" Emma", " Peter") else [2] * len(text))

    with pytest.raises(TaskError, match=r"only 2 of Alice, Peter, .* give a file of your own"):
        generate_ioi(spell, 2, seed=0)


def test_greater_than_with_two_digits_a_token():
    tokenizer = build_word_tokenizer(YEARS_WORDS, digits=2)
    task = generate_greater_than(tokenizer, 12, seed=1)

    assert task == generate_greater_than(tokenizer, 12, seed=1)
    assert task.metric is CircuitMetric.PROBABILITY_DIFFERENCE
    for row in task.rows:
        answers = [int(text) for text in tokenizer.convert_ids_to_tokens(list(row.answer_ids))]
        wrong = [int(text) for text in tokenizer.convert_ids_to_tokens(list(row.wrong_ids))]
        start = int(tokenizer.convert_ids_to_tokens(list(row.clean_ids))[8])
        assert answers == list(range(start + 1, 100))
        assert wrong == list(range(start + 1))
        assert tokenizer.convert_ids_to_tokens(list(row.corrupted_ids))[8] == "01"


def test_greater_than_digit_by_digit_leaves_the_equal_tens_out():
    tokenizer = build_word_tokenizer([*YEARS_WORDS, *NOUNS], digits=1)
    task = generate_greater_than(tokenizer, 12, seed=1)
    for row in task.rows:
        answers, wrong = (
            "".join(tokenizer.convert_ids_to_tokens(list(ids)))
            for ids in (row.answer_ids, row.wrong_ids)
        )
        tens = tokenizer.convert_ids_to_tokens(list(row.clean_ids))[9]
        assert f"{wrong}{tens}{answers}" == "0123456789"


def test_a_tokenizer_of_other_chunks_is_refused():
    tokenizer = build_word_tokenizer(YEARS_WORDS, digits=3)
    with pytest.raises(TaskError, match="choose another task"):
        generate_greater_than(tokenizer, 2, seed=0)
