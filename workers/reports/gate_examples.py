"""Example responses that show a behaviour, for readers of a gate that was not met."""

from __future__ import annotations

from collections.abc import Sequence

from excise.reports.gate_run import GateExample
from excise.reports.gates import GateResult
from workers.measuring.state import BehaviourScores, ModelState, Responses

MOST_EXAMPLES = 5
"""Largest number of prompts per behaviour whose responses are shown. Chosen by hand."""

BEHAVIOUR_GATES = ("behaviour", "behaviour_significance", "behaviour_share", "behaviour_share_rise")


def collect_examples(
    gates: Sequence[GateResult], base: ModelState, state: ModelState
) -> list[GateExample]:
    """Return responses that show a behaviour, for each behaviour with a gate that was not met.

    Prompts with the most such responses come first; ties keep the order of the prompts.
    """
    unmet = [tuple(gate.name.split(":", 1)) for gate in gates if not gate.passed]
    names = dict.fromkeys(parts[1] for parts in unmet if parts[0] in BEHAVIOUR_GATES)
    return [example for name in names for example in _collect(name, base, state)]


def _collect(name: str, base: ModelState, state: ModelState) -> list[GateExample]:
    scores, before, after = (
        state.behaviours.get(name),
        base.responses.get(name),
        state.responses.get(name),
    )
    if not isinstance(scores, BehaviourScores):
        return []
    if not (isinstance(before, Responses) and isinstance(after, Responses)):
        return []
    shown = [number for number, count in enumerate(scores.shown) if count]
    chosen = sorted(shown, key=lambda number: -scores.shown[number])[:MOST_EXAMPLES]
    parts = {
        number: slice(number * after.samples, (number + 1) * after.samples) for number in chosen
    }
    return [
        GateExample(
            behaviour=name,
            prompt=after.prompts[own.start],
            before=before.texts[own],
            after=after.texts[own],
            shown=scores.shown[number],
        )
        for number, own in parts.items()
    ]
