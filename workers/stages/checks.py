"""Which damage and safety gates a correction must pass, and what they are measured on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from excise.names import GatedSet
from excise.specs.gates import PromptGateSpec
from workers.correction.continuations import NEW_TOKENS, cut_beginnings
from workers.correction.results import PreparedCorrection
from workers.gates.gates import GateRequest
from workers.gates.requests import (
    build_behaviour_response_requests,
    build_plan,
    build_requests,
    build_response_requests,
)
from workers.gates.requests import list_not_asked as find_not_asked
from workers.measuring.measurement import CheckPlan, PromptSet
from workers.models.generation import Decoding
from workers.stages.abilities import list_verdict_kinds
from workers.stages.context import InvalidInputError
from workers.stages.inputs import CorrectionInputs


def load_check_plan(inputs: CorrectionInputs) -> CheckPlan:
    """Return what the spec's gates are measured on.

    Raises `InvalidInputError` if a set or a row is invalid.
    """
    try:
        return build_plan(
            inputs.spec.gates,
            inputs.base.tokenizer,
            inputs.chats,
            inputs.task_rows,
            inputs.spec.seed,
            list_verdict_kinds(inputs),
            inputs.base.context_length,
        )
    except ValueError as error:
        raise InvalidInputError(str(error)) from error


def build_check_plan(inputs: CorrectionInputs, prepared: PreparedCorrection) -> CheckPlan:
    """Return what base and corrected model are measured on besides the behaviours."""
    plan = load_check_plan(inputs)
    decode = inputs.base.tokenizer.decode
    beginnings = tuple(map(decode, cut_beginnings(prepared.reference.held_out)))
    own = PromptSet(beginnings, Decoding(NEW_TOKENS), chat=False)
    return replace(
        plan,
        corpus=prepared.corpus or prepared.reference.held_out,
        reference=prepared.reference.held_out,
        prompt_sets={GatedSet.REFERENCE: own, **plan.prompt_sets},
    )


def list_requests(inputs: CorrectionInputs) -> list[GateRequest]:
    """Return the damage and safety gates of the job, with their limits."""
    budget = inputs.spec.budget
    requests = [
        GateRequest("perplexity", budget.perplexity_increase),
        GateRequest("kl", budget.kl_mean),
        *list_answer_requests(inputs),
    ]
    return requests + build_requests(inputs.spec.gates)


def list_answer_requests(inputs: CorrectionInputs) -> list[GateRequest]:
    """Return the gates on continuations of reference text and answers to behaviours' prompts."""
    responses = inputs.spec.responses
    name = GatedSet.REFERENCE
    requests = build_response_requests(responses.limits_of(name), name)
    for own in inputs.behaviours:
        requests += build_behaviour_response_requests(responses, own.name, own.kind)
    return requests


def list_not_asked(inputs: CorrectionInputs) -> list[str]:
    """Return the gates that the job could use but does not, by their field of `gates`."""
    asked_otherwise = ("perplexity", "kl")
    return [name for name in find_not_asked(inputs.spec.gates) if name not in asked_otherwise]


def hash_checks(inputs: CorrectionInputs) -> dict[str, Any]:
    """Return the values on which the gates' measurements depend; prompt sets go by content.

    What is None is left out, so that a new gate that nobody asks for changes no stored key.
    """
    gates = inputs.spec.gates
    document = gates.model_dump(mode="json", exclude_none=True)
    for name in type(gates).model_fields:
        if isinstance(asked := getattr(gates, name), PromptGateSpec):
            document[name]["prompts"] = inputs.prompt_set(asked.prompts).sha256
    for position, task in enumerate(gates.zero_shot):
        document["zero_shot"][position]["rows"] = inputs.hash_task_rows(task)
    return document
