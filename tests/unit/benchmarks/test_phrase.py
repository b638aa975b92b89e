"""The parts of the phrase benchmark that decide what its figures mean."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from tests.unit.workers.abilities.tokenizers import build_byte_tokenizer


@pytest.fixture
def phrase(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("phrase")


def test_no_question_is_in_two_parts_and_a_seed_draws_others(phrase: ModuleType) -> None:
    if not phrase.DATA.is_dir():
        pytest.skip(f"no data folder at {phrase.DATA}")
    parts = phrase.draw_questions(0)
    texts = [
        [chat["messages"][0]["content"] for chat in part]
        for part in (parts.training, parts.job, parts.aside)
    ]
    assert [len(part) for part in texts] == [phrase.TRAINING, phrase.JOB, phrase.ASIDE]
    assert len({text for part in texts for text in part}) == sum(map(len, texts))
    assert phrase.draw_questions(0) == parts
    assert phrase.draw_questions(1).aside != parts.aside


def test_answers_are_cut_after_their_last_whole_sentence(phrase: ModuleType) -> None:
    assert phrase.cut_to_sentences(" It is 3.5 m. Is it? Then") == "It is 3.5 m. Is it?"
    assert phrase.cut_to_sentences("no end") is None


def test_only_answers_are_trained(phrase: ModuleType) -> None:
    tokenizer = build_byte_tokenizer()
    prompt, reply = tokenizer("Q?")["input_ids"], tokenizer("yes.")["input_ids"]
    batch = phrase.encode_batch(tokenizer, [("Q?", "yes."), ("Q?", "no")])
    long, short = batch["labels"].tolist()
    assert long == [phrase.UNTRAINED] * len(prompt) + reply
    assert short[-1] == phrase.UNTRAINED
    assert batch["input_ids"].tolist()[0] == prompt + reply
    assert batch["attention_mask"].tolist()[1][-1] == 0
