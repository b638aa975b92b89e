"""The answers to a behaviour's prompts, as the gates on responses see them, in search and verdict.

A search that does not ask these gates chooses what the verdict then rejects: of three trials that
removed a closing phrase from every tuning answer, the one with the fewest weights let a fifth of
the answers run into the token limit (benchmarks/RESULTS.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from excise.names import GateBound
from excise.reports.gates import GateResult
from workers.correction.behaviour import Behaviour
from workers.correction.continuations import NEW_TOKENS
from workers.correction.results import Response, Responses, divide_by_limit
from workers.gates.gates import GateRequest, judge_gates
from workers.gates.rows import Gate
from workers.gates.table import GATES
from workers.measuring.state import ModelState
from workers.measuring.state import Responses as Answers

_UNCHANGED = {"ratio": 1.0}
"""Unit of a gate → its value where nothing changed; 0 for all other units."""


def collect_answers(
    behaviours: Sequence[Behaviour], responses: Sequence[Responses]
) -> dict[str, Answers]:
    """Return behaviour → the answers that are compared; `responses` has an entry per behaviour.

    They are compared without a phrase that ends them: to lose it shortens no answer.
    """
    return {
        behaviour.name: _collect(
            [[one.drop_closing() for one in samples] for samples in own],
            behaviour.decoding.max_new_tokens,
        )
        for behaviour, own in zip(behaviours, responses, strict=True)
    }


def collect_continuations(responses: Sequence[Response]) -> Answers:
    """Return continuations of reference text as the answers that are compared."""
    return _collect([[one] for one in responses], NEW_TOKENS)


def measure_uses(
    requests: Sequence[GateRequest], before: Mapping[str, Answers], after: Mapping[str, Answers]
) -> dict[str, float]:
    """Return gate → used share of its limit, above 1 only if it is not met.

    A gate that cannot be measured uses infinitely much.
    """
    found = judge_gates(
        requests, ModelState(responses=dict(before)), ModelState(responses=dict(after))
    )
    return {
        gate.name: _compute_use(gate, GATES[request.name])
        for request, gate in zip(requests, found, strict=True)
    }


def _compute_use(result: GateResult, gate: Gate) -> float:
    if result.value is None:
        return float("inf")
    unchanged = _UNCHANGED.get(gate.unit, 0.0)
    change, limit = result.value - unchanged, result.limit - unchanged
    if gate.bound is GateBound.AT_LEAST:
        change, limit = -change, -limit
    return divide_by_limit(change, limit)


def _collect(responses: Sequence[Sequence[Response]], max_new_tokens: int) -> Answers:
    return Answers(
        prompts=tuple(str(number) for number, samples in enumerate(responses) for _ in samples),
        token_ids=tuple(one.token_ids for samples in responses for one in samples),
        texts=tuple(one.text for samples in responses for one in samples),
        max_new_tokens=max_new_tokens,
        reasoning_tokens=tuple(one.reasoning_tokens for samples in responses for one in samples),
    )
