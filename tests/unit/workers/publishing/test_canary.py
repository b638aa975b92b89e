from __future__ import annotations

import pytest
import torch

from tests.tiny_families import SETTINGS, build_family_model
from tests.unit.workers.publishing.cases import PROMPTS, continue_slowly
from workers.publishing.canary import GreedyTrace, TracePair, choose_pairs, trace_greedy


@pytest.mark.parametrize("name", SETTINGS)
def test_traces_are_those_of_each_prompt_alone(name: str) -> None:
    model = build_family_model(name)
    done: list[int] = []
    traces = trace_greedy(model, PROMPTS * 2, 9, done.append)
    assert sum(done) == len(PROMPTS) * 2
    for prompt, trace in zip(PROMPTS * 2, traces, strict=True):
        tokens, logprobs = continue_slowly(model, prompt, 9)
        assert (trace.prompt_ids, list(trace.token_ids)) == (prompt, tokens)
        torch.testing.assert_close(
            torch.tensor(trace.logprobs), torch.tensor(logprobs), rtol=1e-4, atol=1e-4
        )
        assert all(margin >= 0 for margin in trace.margins)


def test_an_end_of_sequence_token_does_not_end_a_trace() -> None:
    model = build_family_model("llama")
    (before,) = trace_greedy(model, [PROMPTS[0]], 6, lambda _: None)
    model.generation_config.eos_token_id = before.token_ids[1]
    model.generation_config.repetition_penalty = 5.0
    (after,) = trace_greedy(model, [PROMPTS[0]], 6, lambda _: None)
    assert after == before


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        trace_greedy(build_family_model("llama"), [()], 2, lambda _: None)


def make_pair(number: int, *, is_telling: bool) -> TracePair:
    def trace(token: int) -> GreedyTrace:
        return GreedyTrace((number,), (token,), (0.0,), (1.0,))

    return TracePair(trace(0), trace(1 if is_telling else 0))


def test_telling_prompts_come_first_and_some_on_which_the_models_agree() -> None:
    pairs = [make_pair(number, is_telling=number % 2 == 0) for number in range(40)]
    chosen = choose_pairs(pairs, 16, lambda index: index >= 20)
    numbers = [pair.base.prompt_ids[0] for pair in chosen]
    assert numbers == sorted(numbers)
    assert [number for number in numbers if number % 2] == [1, 3, 5, 7]
    assert {number for number in numbers if number % 2 == 0} == {0, 2, *range(20, 40, 2)}


def test_few_telling_prompts_are_filled_up() -> None:
    pairs = [make_pair(number, is_telling=number < 2) for number in range(30)]
    chosen = choose_pairs(pairs, 16)
    assert len(chosen) == 16
    assert sum(pair.is_telling for pair in chosen) == 2
    assert choose_pairs(pairs[:5], 16) == pairs[:5]
