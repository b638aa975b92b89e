"""Remedies for unmet gates: the likely cause and what to do, in a sentence or two each.

A job and `excise gate` have the same limits in different fields, and only a job can prune less, so
each has its own wording.
"""

from __future__ import annotations

from collections.abc import Sequence

from excise.names import GatedSet, GateGroup
from excise.reports.gates import GateResult
from workers.gates.rows import Figure, Gate, Remedy, judge_figure
from workers.gates.table import ABILITIES, EFFECT_GATES, GATES, NOT_WORSE

_ENDLESS = Remedy(
    GATES["token_limit"].remedy.cause + " Where the base ended its answers with what is now gone, "
    "they go on until the limit; if self_repetition rose as well, they loop, and more room does "
    "not help.",
    "Raise decoding.max_new_tokens of {subject}, so that answers have the room to end by "
    "themselves, or set {part}.{limit} to what you accept.",
    "Raise max_new_tokens of these prompts, so that answers have the room to end, or set "
    "{part}.{limit} to what you accept.",
)
"""Remedy for prompt sets whose `max_new_tokens` the user can set."""

_OTHER_GATES = {gate.name: gate for gate in (ABILITIES, NOT_WORSE)}

_REFERENCE = "reference"
"""The only prompt set of a job whose `max_new_tokens` is fixed."""

_UNMEASURED = "Fix the given reason; a gate that is requested and not measured is unmet."
_OTHER = {
    GateGroup.EFFECT: "The effect is less than is asked for. Correct further, or change the limit.",
    GateGroup.SAFETY: "The model has become less safe. Change less of it, or change the limit.",
    GateGroup.DAMAGE: "Something that worked has suffered. Change less, or change the limit.",
    None: "The limit is not kept. Change what it watches, or the limit.",
}


def add_remedies(gates: Sequence[GateResult], *, of_job: bool) -> list[GateResult]:
    """Return the gates, each unmet one with its remedy, worded for a job or for `excise gate`."""
    return [
        gate
        if gate.is_met
        else gate.model_copy(update={"remedy": find_remedy(gate, of_job=of_job)})
        for gate in gates
    ]


def judge_with_remedy(gate: Gate, limit: float, figure: Figure) -> GateResult:
    """Return the result of a job's gate; if it is unmet, with its remedy."""
    result = judge_figure(gate, limit, figure)
    if result.is_met:
        return result
    return result.model_copy(
        update={"remedy": gate.remedy.write("", "", gate.limit_field, of_job=True)}
    )


def find_remedy(result: GateResult, *, of_job: bool) -> str:
    """Return the likely cause of an unmet gate and what to do about it.

    The gate may be one of a correction, of `excise gate`, or one that is in no table.
    """
    if result.value is None:
        return _UNMEASURED
    name, subject = _split(result.name)
    gate = (GATES | EFFECT_GATES | _OTHER_GATES).get(name)
    if gate is None:
        return _OTHER[result.group]
    is_general = subject in ("", GatedSet.GENERAL)
    general = "gates.general" if of_job else "general"
    part = general if is_general else f"responses.sets.{subject}"
    remedy = gate.remedy
    if name == "token_limit" and subject != _REFERENCE:
        remedy, subject = _ENDLESS, subject or "gates.general"
    spoken = subject.replace("_", " " if name in EFFECT_GATES else "-")
    return remedy.write(spoken, part, gate.limit_field, of_job=of_job)


def _split(identifier: str) -> tuple[str, str]:
    """Return gate and subject of a name such as `kl`, `uniqueness:ours` or `ours.effect`."""
    name, _, subject = identifier.partition(":")
    owner, _, last = name.rpartition(".")
    return (last, owner) if not subject and last in EFFECT_GATES else (name, subject)
