"""Responses of a pruned model: those of the model with the neurons gone, and none the less."""

from __future__ import annotations

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.tiny import MODULES, select_neurons, weight_bytes
from workers.correction.measurement import collect_undesired, measure_responses
from workers.correction.preparation import BehaviourSettings, generate_outcomes
from workers.correction.results import PromptOutcome, Response
from workers.domain import TokenSequence

PROMPTS = [f"w{index} w{3 * index}" for index in range(1, 7)]
INDICES = list(range(20))
CHOSEN = select_neurons({MODULES[0]: INDICES})


def test_pruning_nothing_repeats_the_base_responses(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    settings = BehaviourSettings(10, 1.0)
    outcomes = generate_outcomes(model, tokenizer, 0, PROMPTS, settings, lambda done, total: None)
    advanced: list[int] = []
    found = measure_responses(
        model, tokenizer, 0, select_neurons({}), outcomes, 10, advanced.append
    )
    assert sum(advanced) == len(PROMPTS)
    assert [(entry.response, entry.metric) for entry in found] == [
        (entry.response, entry.metric) for entry in outcomes
    ]


def test_the_responses_are_those_of_the_pruned_model(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    settings = BehaviourSettings(10, 1.0)
    outcomes = generate_outcomes(model, tokenizer, 0, PROMPTS, settings, lambda done, total: None)
    before = weight_bytes(model)
    found = measure_responses(model, tokenizer, 0, CHOSEN, outcomes, 10, lambda done: None)
    assert weight_bytes(model) == before
    model.get_submodule(MODULES[0]).weight.data[:, INDICES] = 0
    again = generate_outcomes(model, tokenizer, 0, PROMPTS, settings, lambda done, total: None)
    assert [entry.response for entry in found] == [entry.response for entry in again]
    assert [entry.metric for entry in found] == [entry.metric for entry in again]
    assert [entry.response for entry in found] != [entry.response for entry in outcomes]


def test_what_is_still_undesired_is_marked_for_explanation() -> None:
    prompts = [
        PromptOutcome(
            prompt="",
            prompt_ids=(index,),
            response_ids=(1,),
            response="",
            metric=0.1,
            triggering=True,
            held_out=False,
        )
        for index in (7, 8, 9)
    ]
    responses = [
        Response(response="", metric=0.5, response_ids=(1, 2, 1, 2)),
        Response(response="", metric=0.51, response_ids=(1, 1, 2)),
        Response(response="", metric=0.0, response_ids=()),
    ]
    assert collect_undesired(prompts, responses, 0.5) == (
        TokenSequence((7,), (1, 2, 1, 2), (False, False, False, True)),
    )
