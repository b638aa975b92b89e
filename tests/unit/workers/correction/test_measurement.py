"""Responses of a pruned model: those of the model with the neurons gone, and none the less."""

from __future__ import annotations

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.tiny import MODULES, weight_bytes
from workers.correction.measurement import measure_responses
from workers.correction.preparation import BehaviourSettings, generate_outcomes
from workers.domain import Component

PROMPTS = [f"w{index} w{3 * index}" for index in range(1, 7)]
CHOSEN = [Component(MODULES[0], index) for index in range(20)]


def test_pruning_nothing_repeats_the_base_responses(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    settings = BehaviourSettings(10, 1.0)
    outcomes = generate_outcomes(model, tokenizer, 0, PROMPTS, settings, lambda done, total: None)
    advanced: list[int] = []
    found = measure_responses(model, tokenizer, 0, (), outcomes, 10, advanced.append)
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
    for component in CHOSEN:
        model.get_submodule(component.module).weight.data[:, component.index] = 0
    again = generate_outcomes(model, tokenizer, 0, PROMPTS, settings, lambda done, total: None)
    assert [entry.response for entry in found] == [entry.response for entry in again]
    assert [entry.metric for entry in found] == [entry.metric for entry in again]
    assert [entry.response for entry in found] != [entry.response for entry in outcomes]
