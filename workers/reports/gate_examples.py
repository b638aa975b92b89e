"""Example responses for readers of a gate that was not met: what its figure is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, zip_longest

from excise.reports.gate_run import GateExample
from excise.reports.gates import GateResult
from workers.measuring.estimates import Pair, find_figures, find_refusals
from workers.measuring.responses import ResponseFigures
from workers.measuring.state import BehaviourScores, ModelState, Responses

MOST_EXAMPLES = 5
"""Largest number of prompts per behaviour or prompt set whose responses are shown. Chosen by
hand."""

BEHAVIOUR_GATES = ("behaviour", "behaviour_significance", "behaviour_share", "behaviour_share_rise")


def collect_examples(
    gates: Sequence[GateResult], base: ModelState, state: ModelState
) -> list[GateExample]:
    """Return responses for each behaviour and prompt set with a gate that was not met.

    For a behaviour, prompts with the most responses that show it come first. For other gates, those
    come first whose responses moved most in the direction that the gate limits. Several gates take
    turns; ties keep the order of the prompts.
    """
    unmet: dict[str, list[str]] = {}
    for gate in gates:
        name, _, subject = gate.name.partition(":")
        if subject and not gate.passed and gate.value is not None:
            unmet.setdefault(subject, []).append(name)
    return [
        example
        for subject, names in unmet.items()
        for example in _collect(names, Pair(base, state, subject))
    ]


def _collect(names: Sequence[str], pair: Pair) -> Iterator[GateExample]:
    before, after = (state.responses.get(pair.subject) for state in (pair.base, pair.changed))
    if not (isinstance(before, Responses) and isinstance(after, Responses)):
        return
    scores = pair.changed.behaviours.get(pair.subject)
    shown = scores.shown if isinstance(scores, BehaviourScores) else None
    for number in _choose(names, pair, after.samples):
        own = slice(number * after.samples, (number + 1) * after.samples)
        yield GateExample(
            behaviour=pair.subject,
            prompt=after.prompts[own.start],
            before=before.texts[own],
            after=after.texts[own],
            shown=None if shown is None else shown[number],
        )


def _choose(names: Sequence[str], pair: Pair, samples: int) -> list[int]:
    """Return the numbers of the prompts to show: the worst by each gate, in turn."""
    orders = [_rank(_HARMS[name](pair), samples) for name in names if name in _HARMS]
    turns = chain.from_iterable(zip_longest(*orders))
    return [number for number in dict.fromkeys(turns) if number is not None][:MOST_EXAMPLES]


def _rank(harms: Sequence[float], samples: int) -> list[int]:
    """Return the prompts with any harm, the worst first; `harms` has one entry per response."""
    sums = [sum(harms[start : start + samples]) for start in range(0, len(harms), samples)]
    return sorted((n for n, harm in enumerate(sums) if harm > 0), key=lambda n: -sums[n])


Harm = Callable[[Pair], Sequence[float]]
"""Returns, for each response, the figure that a gate limits, or how much that figure rose."""


def _count_shown(pair: Pair) -> Sequence[float]:
    scores = pair.changed.behaviours.get(pair.subject)
    if not isinstance(scores, BehaviourScores):
        return []
    return [count / scores.samples for count in scores.shown for _ in range(scores.samples)]


def _find_refused(pair: Pair) -> Sequence[float]:
    return _subtract(*find_refusals(pair))


def _rise(read: Callable[[ResponseFigures], Sequence[float]]) -> Harm:
    """Return a harm: the rise of a figure of responses."""

    def compare(pair: Pair) -> Sequence[float]:
        before, after = find_figures(pair)
        return _subtract(read(before), read(after))

    return compare


def _fall(rise: Harm) -> Harm:
    """Return a harm: the fall of the figure whose rise is given."""
    return lambda pair: [-change for change in rise(pair)]


def _subtract(before: Sequence[float], after: Sequence[float]) -> list[float]:
    return [new - old for old, new in zip(before, after, strict=True)]


_HARMS: Mapping[str, Harm] = {
    **dict.fromkeys(BEHAVIOUR_GATES, _count_shown),
    "uniqueness": _fall(_rise(lambda figures: figures.uniqueness)),
    "diversity": _fall(_rise(lambda figures: figures.uniqueness)),
    "self_repetition": _rise(lambda figures: figures.self_repetition),
    "emptiness": _rise(lambda figures: figures.is_empty),
    "shorter": _fall(_rise(lambda figures: figures.lengths)),
    "longer": _rise(lambda figures: figures.lengths),
    "token_limit": _rise(lambda figures: figures.hits_limit),
    "refusal": _fall(_find_refused),
    "over_refusal": _find_refused,
}
"""Gate → the harm that it limits. Diversity is a figure of all responses together, so the responses
shown are those that became more uniform themselves."""
