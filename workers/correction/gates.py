"""The gates on effects: what a correction must do to each behaviour to pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from excise.names import Direction, MeasureName
from excise.reports.gates import GateResult
from workers.correction.behaviour import Behaviour
from workers.correction.effects import BehaviourSides, average_draws, compute_values
from workers.correction.results import Responses
from workers.gates.rows import Figure, Gate, judge_figure
from workers.gates.table import EFFECT_GATES
from workers.measuring.statistics import compute_change_interval

MIN_HELD_OUT = 10
"""A correction can pass only with at least this many triggering held-out prompts. Chosen by
hand."""

ENOUGH = 2.0
"""A search that corrects several behaviours wants this many times the effect that each one's gate
asks, because held-out prompts may show less: of a rise by 0.127 on tuning prompts 0.082 was left
(benchmarks/RESULTS.md). Other values were not tried."""


def build_effect_gates(behaviour: Behaviour, sides: BehaviourSides) -> list[GateResult]:
    """Return the gates of one behaviour, named `<behaviour>.<gate>`.

    The effect is the correction's change beyond that of an equally large random selection. Prompts
    are chosen by one run of the base model and measured by another, so some show the behaviour
    less even without any correction. If a random selection makes the behaviour worse, the effect
    is measured from the base, so that damage avoided does not count as an improvement.

    If several scorers must agree, the same ones must meet every gate. Those that meet the most
    gates are used (among equals, those with the largest effect), and a gate's value is the
    smallest that any of them finds.
    """
    assert sides.validated is not None
    before, corrected = sides.held_out_before, sides.validated.corrected
    controls = sides.validated.controls

    def starts(own: _Improvement) -> tuple[list[float], list[float]]:
        return own.of(before), average_draws(controls, own.of)

    demands = (
        _Demand(
            EFFECT_GATES["effect"],
            lambda own: min(own.compute_effect(start, own.of(corrected)) for start in starts(own)),
            behaviour.min_effect,
        ),
        _Demand(
            EFFECT_GATES["significance"],
            lambda own: min(own.find_least_gain(start, own.of(corrected)) for start in starts(own)),
            0.0,
        ),
        _Demand(
            EFFECT_GATES["better_than_random"],
            lambda own: own.find_least_gain(average_draws(controls, own.of), own.of(corrected)),
            0.0,
        ),
    )
    held_out = Figure(float(len(before)))
    return [
        *(
            _judge(behaviour, demand.gate, demand.limit, Figure(value))
            for demand, value in zip(demands, _agree(behaviour, demands), strict=True)
        ),
        _judge(behaviour, EFFECT_GATES["held_out_prompts"], float(MIN_HELD_OUT), held_out),
        *_judge_remaining(behaviour, before, corrected),
    ]


def measure_attained(behaviour: Behaviour, before: Responses, after: Responses) -> float:
    """Return a behaviour's effect as a share of what a search wants of it; 1 or more is enough.

    Both have an entry per prompt; without any the result is 0. The effect is measured as the gate
    `effect` measures it, from the base. What is wanted is `ENOUGH` times what that gate asks, and
    at most 1 / `ENOUGH` of what may remain.
    """
    if not before:
        return 0.0
    demand = _Demand(
        EFFECT_GATES["effect"],
        lambda own: own.compute_effect(own.of(before), own.of(after)),
        behaviour.min_effect,
    )
    (effect,) = _agree(behaviour, [demand])
    attained = effect / min(ENOUGH * behaviour.min_effect, 1.0)
    if behaviour.max_remaining is None:
        return attained
    shown, left = _compute_share(behaviour, before), _compute_share(behaviour, after)
    wanted = shown - behaviour.max_remaining / ENOUGH
    return min(attained, (shown - left) / wanted) if wanted > 0 else attained


def _judge_remaining(
    behaviour: Behaviour, before: Responses, corrected: Responses
) -> list[GateResult]:
    """Return the gate on what remains, named `remaining:<behaviour>`; empty without a limit.

    A response shows the behaviour if as many scorers as must agree say so.
    """
    limit = behaviour.max_remaining
    if limit is None:
        return []
    value = _compute_share(behaviour, corrected)
    figure = Figure(
        value,
        before=_compute_share(behaviour, before),
        after=value,
        count=sum(map(len, corrected)),
    )
    return [_judge(behaviour, EFFECT_GATES["remaining"], limit, figure)]


def _compute_share(behaviour: Behaviour, responses: Responses) -> float:
    return fmean(behaviour.is_failing(one) for samples in responses for one in samples)


@dataclass(frozen=True)
class _Demand:
    """A gate that each scorer judges by its own figures."""

    gate: Gate
    find: Callable[[_Improvement], float]
    limit: float


def _agree(behaviour: Behaviour, demands: Sequence[_Demand]) -> list[float]:
    """Return, for each demand, the value that as many scorers as must agree find at least."""
    improvements = [_Improvement(behaviour, scorer) for scorer in range(len(behaviour.scorers))]
    rows = [[demand.find(own) for demand in demands] for own in improvements]

    def rank(row: Sequence[float]) -> tuple[int, float]:
        judged = zip(demands, row, strict=True)
        met = [demand.gate.bound.is_met(value, demand.limit) for demand, value in judged]
        return sum(met), row[0]

    best = sorted(rows, key=rank, reverse=True)[: behaviour.agreeing]
    return [min(values) for values in zip(*best, strict=True)]


class _Improvement:
    """The improvement of a behaviour's headline figure, by one scorer."""

    def __init__(self, behaviour: Behaviour, scorer: int) -> None:
        self._behaviour = behaviour
        self._scorer = scorer
        rises = (
            behaviour.headline is MeasureName.MEAN_SCORE
            and behaviour.scorers[scorer].direction is Direction.HIGHER_IS_BETTER
        )
        self._sign = 1.0 if rises else -1.0

    def of(self, responses: Responses) -> list[float]:
        """Return the headline figure of each prompt."""
        return compute_values(self._behaviour, self._scorer, self._behaviour.headline, responses)

    def compute_effect(self, before: Sequence[float], after: Sequence[float]) -> float:
        """Return the rise of a mean score, or the relative fall of a share."""
        old, new = fmean(before), fmean(after)
        if self._behaviour.headline is MeasureName.MEAN_SCORE:
            return self._sign * (new - old)
        return 1 - new / old if old > 0 else 0.0

    def find_least_gain(self, before: Sequence[float], after: Sequence[float]) -> float:
        """Return the lower end of the improvement's 95 % interval."""
        low, high = compute_change_interval(before, after)
        return low if self._sign > 0 else -high


def _describe_effect(behaviour: Behaviour) -> str:
    if behaviour.headline is MeasureName.MEAN_SCORE:
        return f"the improvement of the mean score of {behaviour.name}"
    return f"the relative fall of the share of responses that show {behaviour.name}"


def _name_scorers(behaviour: Behaviour) -> str:
    if len(behaviour.scorers) == 1:
        return ""
    return f", by at least {behaviour.agreeing} of {len(behaviour.scorers)} evaluators"


def _judge(behaviour: Behaviour, gate: Gate, limit: float, figure: Figure) -> GateResult:
    words = {
        "behaviour": behaviour.name,
        "improvement": _describe_effect(behaviour),
        "judges": _name_scorers(behaviour),
    }
    return judge_figure(gate, limit, figure, behaviour.name, words)
