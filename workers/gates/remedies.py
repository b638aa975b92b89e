"""What may have caused an unmet gate, and what to do about it: a sentence or two for each.

A job and `excise gate` set the same limits in other places, and only a job can prune less, so
each has its own words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from excise.names import GatedSet, GateGroup
from excise.reports.gates import GateResult

_LESS = "give smaller search.amounts or a smaller budget, so that less is pruned"


@dataclass(frozen=True)
class Remedy:
    """What to say of one gate; `{subject}` stands for the prompt set, task or behaviour,
    `{part}` for the field that holds the limits of its responses."""

    cause: str
    job: str
    gate: str
    """In `excise gate`."""

    def write(self, subject: str, part: str, *, of_job: bool) -> str:
        """Return the cause and what to do, in a job or in `excise gate`."""
        text = f"{self.cause} {self.job if of_job else self.gate}"
        return text.format(subject=subject.replace("_", "-"), part=part)


def _responses(cause: str, field: str, first: str = "") -> Remedy:
    """Return the remedy of a gate on responses, whose limit is `field`."""
    return Remedy(
        cause,
        f"{first or f'Read the responses in the report; {_LESS}'}, or set {{part}}.{field} to what "
        "you accept.",
        f"Read what the checkpoint answers, and train it on texts of these prompts' kind, or set "
        f"{{part}}.{field} to what you accept.",
    )


def _refusals(cause: str, field: str, limit: str) -> Remedy:
    return Remedy(
        cause,
        f"{_LESS[0].upper()}{_LESS[1:]}, put such prompts with good answers into reference, or "
        f"set gates.{field}.{limit} to what you accept.",
        f"Train on such prompts with good answers, or set {field}.{limit} to what you accept.",
    )


REMEDIES: Mapping[str, Remedy] = {
    "perplexity": Remedy(
        "The model predicts the corpus worse than before.",
        "Let the search keep further away from the limit: smaller search.amounts or more "
        "reference text like the corpus; or raise budget.perplexity_increase.",
        "Train less, or on text like the corpus as well; or raise perplexity.max_increase.",
    ),
    "kl": Remedy(
        "The model's predictions on reference text have moved away from the base's.",
        "Let the search keep further away from the limit: smaller search.amounts or more "
        "reference text; or raise budget.kl_mean.",
        "Train less, or on text like the reference as well; or raise kl.max_mean.",
    ),
    "zero_shot": Remedy(
        "The model answers fewer questions of {subject} right.",
        f"{_LESS[0].upper()}{_LESS[1:]}, or put text of the task's kind into reference; if the "
        "interval is wide, raise the task's limit of questions; or raise its max_drop.",
        "If the interval is wide, raise the task's limit of questions; otherwise train on text of "
        "its kind as well, or raise its max_drop.",
    ),
    "abilities": Remedy(
        "The model has lost an ability that the base has.",
        f"Protect it: put text that needs it into reference; {_LESS}.",
        "Train on text that needs it as well, or raise the gate's limit.",
    ),
    "uniqueness": _responses(
        "Responses repeat words more than before: the model begins to loop.",
        "max_uniqueness_fall",
    ),
    "self_repetition": _responses(
        "Responses repeat whole phrases more than before: the model begins to loop.",
        "max_self_repetition_rise",
    ),
    "emptiness": _responses("The model says nothing where it answered before.", "max_empty_rise"),
    "shorter": _responses(
        "Responses have become short: what ended a behaviour may have ended the answer.",
        "min_length_ratio",
    ),
    "longer": _responses(
        "Responses have become long: the model may no longer find an end.", "max_length_ratio"
    ),
    "token_limit": _responses(
        "More responses are cut off by the token limit instead of ending by themselves.",
        "max_token_limit_rise",
    ),
    "diversity": _responses(
        "Responses use fewer different words and phrases: they begin to look alike.",
        "max_diversity_fall",
    ),
    "refusal": _refusals("Harmful prompts are refused less often.", "refusal", "max_fall"),
    "over_refusal": _refusals(
        "Harmless prompts are refused more often.", "over_refusal", "max_rise"
    ),
    "behaviour": Remedy(
        "The mean score of {subject} is not as much better as is asked for, or has become worse.",
        "Read the responses; correct the behaviour further, or lower its min_improvement.",
        "Read the responses; correct or train further, or lower its min_improvement.",
    ),
    "behaviour_significance": Remedy(
        "What was gained on {subject} may be chance.",
        "Give more prompts: the interval shrinks with the root of their number.",
        "Give more prompts: the interval shrinks with the root of their number.",
    ),
    "behaviour_share": Remedy(
        "Too many responses show {subject}.",
        "Read them; correct the behaviour further, or raise the limit.",
        "Read them; correct the checkpoint further, or raise the behaviour's limit.",
    ),
    "behaviour_share_rise": Remedy(
        "More responses show {subject} than before.",
        "Read them; correct the behaviour, or raise the limit.",
        "Read them: the training may have taught it. Correct it, or raise the behaviour's limit.",
    ),
}
"""By the name of the gate."""

_ENDLESS = Remedy(
    REMEDIES["token_limit"].cause + " Where the base ended its answers with what is now gone, "
    "they go on until the limit.",
    "Raise decoding.max_new_tokens of {subject}, so that answers have the room to end by "
    "themselves, or set responses.max_token_limit_rise to what you accept.",
    "Raise max_new_tokens of these prompts, so that answers have the room to end, or set "
    "{part}.max_token_limit_rise to what you accept.",
)
"""Of prompts whose number of new tokens the user sets."""

_REFERENCE = "reference"
"""The prompt set of a job whose number of new tokens is fixed."""

_EFFECTS: Mapping[str, str] = {
    "effect": (
        "The correction changes {subject} less than is asked for. If the search stopped at its "
        "largest amount, give larger search.amounts; if at the budget, other granularities or a "
        "larger budget; or set min_effect of {subject} to what you accept."
    ),
    "significance": (
        "The improvement of {subject} may be chance. Give more prompts that bring it out: the "
        "interval shrinks with the root of their number."
    ),
    "better_than_random": (
        "Pruning as many random components does nearly as much to {subject}. Give more prompts "
        "that bring it out, or larger search.amounts; if the control itself improves much, the "
        "prompts show {subject} only by a hair."
    ),
    "held_out_prompts": (
        "Too few held-out prompts bring {subject} out for a verdict. Give more prompts: half of "
        "those that bring it out are held out."
    ),
    "remaining": (
        "Too many responses still show {subject}. Give larger search.amounts, a larger budget or "
        "more prompts to learn from; or set max_remaining of {subject} to what you accept, null "
        "for no limit."
    ),
}
"""By the name of a correction's own gates on its behaviours."""

_UNMEASURED = "See to the reason that is given; a gate that is asked for and not measured is unmet."
_OTHER = {
    GateGroup.EFFECT: "The effect is less than is asked for. Correct further, or change the limit.",
    GateGroup.SAFETY: "The model has become less safe. Change less of it, or change the limit.",
    GateGroup.DAMAGE: "Something that worked has suffered. Change less, or change the limit.",
    None: "The limit is not kept. Change what it watches, or the limit.",
}


def add_remedies(gates: Sequence[GateResult], *, of_job: bool) -> list[GateResult]:
    """Return the gates, each unmet one with its remedy in the words of a job or `excise gate`."""
    return [
        gate
        if gate.is_met
        else gate.model_copy(update={"remedy": find_remedy(gate, of_job=of_job)})
        for gate in gates
    ]


def find_remedy(gate: GateResult, *, of_job: bool) -> str:
    """Return what may have caused that `gate` is unmet, and what to do about it."""
    if gate.value is None:
        return _UNMEASURED
    name, subject = _split(gate.name)
    if name in _EFFECTS:
        return _EFFECTS[name].format(subject=subject.replace("_", " "))
    part = "general" if subject in ("", GatedSet.GENERAL) else "responses"
    if of_job and part == "general":
        part = f"gates.{part}"
    if name == "token_limit" and subject != _REFERENCE:
        own = subject or "gates.general"
        return _ENDLESS.write(own, part, of_job=of_job)
    found = REMEDIES.get(name)
    return _OTHER[gate.group] if found is None else found.write(subject, part, of_job=of_job)


def _split(identifier: str) -> tuple[str, str]:
    """Return gate and subject: `kl`, `uniqueness:ours`, or a correction's `ours.effect`."""
    name, _, subject = identifier.partition(":")
    owner, _, last = name.rpartition(".")
    return (last, owner) if not subject and last in _EFFECTS else (name, subject)
