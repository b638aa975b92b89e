"""Zero-shot accuracy: a model whose every likelihood is written down, and a random one."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from excise.names import ZeroShotTask
from tests.tiny import build_tiny_tokenizer
from workers.families import LLAMA
from workers.measuring.zero_shot import (
    TaskAccuracy,
    answer_questions,
    compute_log_likelihoods,
    compute_share_error,
    measure_accuracy,
)
from workers.measuring.zero_shot_tasks import Choice, Question
from workers.models.loaded import LoadedModel

WORDS = ("", "is", "big", "small", "very")
PROBABILITIES = {  # word → probability of each next word
    "is": (0.1, 0.1, 0.5, 0.1, 0.2),
    "very": (0.1, 0.1, 0.1, 0.6, 0.1),
}


class Bigrams(nn.Module):
    """The next word's probabilities depend on the last word alone, and stand in the table."""

    def __init__(self) -> None:
        super().__init__()
        table = torch.full((len(WORDS), len(WORDS)), 0.2)
        for word, row in PROBABILITIES.items():
            table[WORDS.index(word)] = torch.tensor(row)
        self.table = nn.Parameter(table.log())
        self.model = _Backbone(self)
        self.lm_head = nn.Linear(len(WORDS), len(WORDS), bias=False)
        with torch.no_grad():
            self.lm_head.weight.copy_(torch.eye(len(WORDS)))
        self.config = SimpleNamespace(max_position_embeddings=20)
        self.fed: list[tuple[int, ...]] = []

    def get_input_embeddings(self) -> nn.Module:
        return self.lm_head


class _Backbone(nn.Module):
    def __init__(self, owner: Bigrams) -> None:
        super().__init__()
        self._owner = [owner]  # in a list, so that it is no submodule of itself

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        owner = self._owner[0]
        owner.fed.extend(tuple(row) for row in input_ids.tolist())
        return SimpleNamespace(last_hidden_state=owner.table[input_ids])


def load(model: nn.Module, pad_id: int = 0) -> LoadedModel:
    return LoadedModel(model, None, LLAMA, pad_id)


def encode(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def ask(context: str, *continuations: str, answer: int) -> Question:
    return Question(tuple(Choice(context, f" {text}") for text in continuations), answer)


def test_likelihoods_are_those_written_down() -> None:
    choices = [
        Choice("is", " big"),
        Choice("small is", " very small"),
        Choice("is", " very small"),
        Choice("very", " big"),
    ]
    for batch_tokens in (1, 6, 1000):
        found = compute_log_likelihoods(load(Bigrams()), encode, choices, batch_tokens=batch_tokens)
        expected = [0.5, 0.2 * 0.6, 0.2 * 0.6, 0.1]
        assert found == pytest.approx([math.log(value) for value in expected], rel=1e-5)


def test_accuracies_of_known_answers() -> None:
    """Probabilities: big 0.5 (3 bytes), very small 0.12 (10 bytes), small 0.1 (5 bytes).

    Per byte they are e^−0.231, e^−0.212 and e^−0.461: normalised, the long choice wins.
    """
    words = ("big", "very small", "small")
    questions = [ask("is", *words, answer=answer) for answer in (0, 0, 1, 2)]
    found = measure_accuracy(load(Bigrams()), encode, ZeroShotTask.ARC_EASY, questions)
    assert found == TaskAccuracy(
        task=ZeroShotTask.ARC_EASY,
        questions=4,
        accuracy=0.5,
        accuracy_error=pytest.approx(math.sqrt(0.25 / 3)),
        normalised_accuracy=0.25,
        normalised_accuracy_error=pytest.approx(math.sqrt(0.1875 / 3)),
    )


def test_a_tie_is_no_answer() -> None:
    """Behind `small`, all words are equally likely, as for a model that computes nothing."""
    questions = [ask("small", "big", "is", answer=0), ask("small", "big", "is", answer=1)]
    questions += [ask("very", "big", "is", answer=0), ask("is", "is", "big", "is", answer=1)]
    found = answer_questions(load(Bigrams()), encode, questions)
    assert [outcome.right for outcome in found] == [False, False, False, True]
    same_length = [ask("small", "is", "is", answer=0)]
    assert not answer_questions(load(Bigrams()), encode, same_length)[0].normalised_right


def test_lengths_are_bytes() -> None:
    """`ééé` is three characters but six bytes, which makes it the likelier per byte."""
    names = {"is": 1, "ééé": 3, "abcde": 2}
    table = Bigrams()
    with torch.no_grad():  # three letters: −0.40 each or −0.20 a byte; five: −0.28 each
        table.table[1] = torch.tensor([0.1, 0.1, 0.25, 0.30, 0.25]).log()
    question = ask("is", "abcde", "ééé", answer=1)
    found = measure_accuracy(
        load(table),
        lambda text: [names[word] for word in text.split()],
        ZeroShotTask.ARC_EASY,
        [question, question],
    )
    assert found.normalised_accuracy == 1.0


def test_partial_evaluation_scores_the_same_words_after_either_option() -> None:
    choices = (Choice("is", " small"), Choice("very", " small"))
    questions = [Question(choices, 1), Question(choices, 0)]
    found = measure_accuracy(load(Bigrams()), encode, ZeroShotTask.WINOGRANDE, questions)
    assert found.accuracy == found.normalised_accuracy == 0.5


def test_choices_of_one_token_are_fed_once_and_count_each() -> None:
    model = Bigrams()
    counts: list[int] = []
    questions = [ask("very is", "big", "small", answer=0), ask("big is", "big", "is", answer=1)]
    measure_accuracy(load(model), encode, ZeroShotTask.BOOLQ, questions, on_batch=counts.append)
    assert sorted(model.fed) == [(2, 1), (4, 1)]
    assert sum(counts) == 4


@pytest.mark.parametrize(("batch_tokens", "pad_id"), [(1, 0), (30, 5), (4096, 0)])
def test_a_real_model_s_likelihoods_do_not_depend_on_batches(
    model: LlamaForCausalLM, batch_tokens: int, pad_id: int
) -> None:
    tokenizer = build_tiny_tokenizer()
    choices = [
        Choice("w5 w6 w7", " w8 w9"),
        Choice("w5 w6 w7", " w8 w10"),
        Choice("w1", " w2 w3 w4 w5"),
        Choice("w9 w8 w7 w6 w5 w4", " w3"),
    ]

    def expected(choice: Choice) -> float:
        context, target = (tokenizer(t).input_ids for t in (choice.context, choice.continuation))
        with torch.no_grad():
            logits = model(torch.tensor([context + target])).logits[0]
        scores = torch.log_softmax(logits[len(context) - 1 : -1], dim=-1)
        return float(scores.gather(1, torch.tensor(target)[:, None]).sum())

    found = compute_log_likelihoods(
        load(model, pad_id=pad_id),
        lambda text: tokenizer(text).input_ids,
        choices,
        batch_tokens=batch_tokens,
    )
    assert found == pytest.approx([expected(choice) for choice in choices], rel=1e-4)


def test_what_exceeds_the_context_is_cut_from_the_left() -> None:
    model = Bigrams()
    choice = Choice("small " * 30 + "is", " very small")
    found = compute_log_likelihoods(load(model), encode, [choice])
    assert found == pytest.approx([math.log(0.2 * 0.6)], rel=1e-5)
    assert model.fed == [(3,) * 18 + (1, 4)]


def test_spaces_at_the_context_s_end_belong_to_the_continuation() -> None:
    """Else a tokeniser that joins a space to its word would split what it never splits."""

    def encode_with_spaces(text: str) -> list[int]:
        return [{"is": 1, " big": 2, " ": 3}[part] for part in re.findall(r" big|is| ", text)]

    found = compute_log_likelihoods(load(Bigrams()), encode_with_spaces, [Choice("is ", "big")])
    assert found == pytest.approx([math.log(0.5)], rel=1e-5)


@pytest.mark.parametrize("choice", [Choice("", " big"), Choice("is", " "), Choice(" ", " big")])
def test_a_choice_with_nothing_to_predict_is_refused(choice: Choice) -> None:
    with pytest.raises(ValueError, match="nothing to predict"):
        compute_log_likelihoods(load(Bigrams()), encode, [choice])


def test_a_choice_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="25 tokens exceeds the model's context of 20"):
        compute_log_likelihoods(load(Bigrams()), encode, [Choice("is", " big" * 25)])


def test_a_likelihood_that_is_no_number_is_an_error() -> None:
    model = Bigrams()
    with torch.no_grad():
        model.table[1, 2] = float("nan")
    with pytest.raises(ArithmeticError, match="not finite"):
        compute_log_likelihoods(load(model), encode, [Choice("is", " big")])


def test_one_question_has_no_standard_error() -> None:
    with pytest.raises(ValueError, match="two or more"):
        measure_accuracy(
            load(Bigrams()), encode, ZeroShotTask.RTE, [ask("is", "big", "is", answer=0)]
        )


@pytest.mark.parametrize(("right", "count"), [(0, 5), (5, 5), (3, 10), (1, 2)])
def test_the_standard_error_is_that_of_a_mean(right: int, count: int) -> None:
    """Sample standard deviation (n − 1) of the single outcomes over √n."""
    outcomes = torch.tensor([1.0] * right + [0.0] * (count - right), dtype=torch.float64)
    expected = float(outcomes.std(unbiased=True)) / math.sqrt(count)
    assert compute_share_error(right, count) == pytest.approx(expected)
