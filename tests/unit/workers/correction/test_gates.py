"""The gates of an effect: each can pass and fail, and enough evaluators must agree."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from excise.names import GateBound, GateGroup, MeasureName
from excise.reports.gates import GateResult
from tests.unit.workers.correction.cases import (
    HIGHER,
    LOWER,
    FunctionScorer,
    build_behaviour,
    respond_with,
    responses_of,
)
from workers.correction.behaviour import Behaviour
from workers.correction.effects import BehaviourSides
from workers.correction.gates import MIN_HELD_OUT, build_effect_gates, measure_attained
from workers.correction.results import BehaviourResponses, Responses
from workers.measuring.statistics import compute_change_interval

GATES = ("effect", "significance", "better_than_random", "held_out_prompts")

# Mean scores of twelve prompts, of which higher is better.
BEFORE = [0.10, 0.15, 0.20, 0.25, 0.30, 0.12, 0.18, 0.22, 0.28, 0.20, 0.24, 0.16]
AFTER = [0.50, 0.60, 0.70, 0.55, 0.65, 0.45, 0.62, 0.58, 0.70, 0.66, 0.52, 0.63]
CONTROLS = [[value + shift for value in BEFORE] for shift in (0.01, -0.01, 0.03)]
UNIQUENESS = build_behaviour(
    FunctionScorer(direction=HIGHER), headline=MeasureName.MEAN_SCORE, min_effect=0.2
)

# Responses of twelve prompts, of which a score of 0.5 or more is undesired.
TOXIC = [(0.9, 0.8, 0.1, 0.7)] * 6 + [(0.9, 0.1, 0.1, 0.2)] * 6
TAMED = [(0.9, 0.1, 0.1, 0.2)] * 6 + [(0.1, 0.1, 0.1, 0.2)] * 6
HALVED = [(0.9, 0.8, 0.1, 0.2)] * 6 + [(0.1, 0.1, 0.1, 0.2)] * 6
"""12 of 48 responses are undesired: a fall by one half."""
TOXICITY = build_behaviour(FunctionScorer(direction=LOWER), min_effect=0.5)


def single(scores: Sequence[float]) -> Responses:
    return responses_of([(score,) for score in scores])


def judge(
    behaviour: Behaviour, before: Responses, after: Responses, controls: Sequence[Responses]
) -> dict[str, GateResult]:
    validated = BehaviourResponses(corrected=after, controls=tuple(controls))
    gates = build_effect_gates(behaviour, BehaviourSides((), (), before, validated))
    assert [gate.name for gate in gates] == [f"{behaviour.name}.{name}" for name in GATES]
    for gate in gates:
        assert gate.bound is not None
        assert gate.value is not None
        assert gate.passed is gate.bound.is_met(gate.value, gate.limit)
        assert gate.group is GateGroup.EFFECT
        assert gate.sentence
    return dict(zip(GATES, gates, strict=True))


def judge_uniqueness(
    after: Sequence[float] = AFTER,
    *,
    before: Sequence[float] = BEFORE,
    controls: Sequence[Sequence[float]] = CONTROLS,
    behaviour: Behaviour = UNIQUENESS,
) -> dict[str, GateResult]:
    return judge(behaviour, single(before), single(after), [single(one) for one in controls])


def failed(gates: dict[str, GateResult]) -> list[str]:
    return [name for name, gate in gates.items() if not gate.passed]


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def test_a_rise_of_the_mean_score_by_hand() -> None:
    gates = judge_uniqueness()
    # The control gains 0.01 on average, which is no merit of the correction.
    lead, _ = compute_change_interval([value + 0.01 for value in BEFORE], AFTER)
    expected = {
        "effect": (mean(AFTER) - mean(BEFORE) - 0.01, 0.2, GateBound.AT_LEAST),
        "significance": (lead, 0.0, GateBound.ABOVE),
        "better_than_random": (lead, 0.0, GateBound.ABOVE),
        "held_out_prompts": (12.0, MIN_HELD_OUT, GateBound.AT_LEAST),
    }
    for name, (value, limit, bound) in expected.items():
        assert gates[name].value == pytest.approx(value), name
        assert (gates[name].limit, gates[name].bound) == (limit, bound)
    assert failed(gates) == []


def test_a_fall_of_the_share_by_hand() -> None:
    before, after = responses_of(TOXIC), responses_of(TAMED)
    gates = judge(TOXICITY, before, after, [before])
    # 24 of 48 responses were undesired, 6 are.
    assert gates["effect"].value == pytest.approx(0.75)
    _, high = compute_change_interval([0.75] * 6 + [0.25] * 6, [0.25] * 6 + [0.0] * 6)
    assert gates["significance"].value == pytest.approx(-high)
    assert gates["better_than_random"].value == pytest.approx(-high)
    assert failed(gates) == []


def test_what_a_random_selection_does_is_no_effect() -> None:
    # The share falls from 0.5 to 0.125 with the correction and to 0.25 with random components.
    before, after = responses_of(TOXIC), responses_of(TAMED)
    control = responses_of(HALVED)
    gates = judge(TOXICITY, before, after, [control])
    assert gates["effect"].value == pytest.approx(0.5)
    _, high = compute_change_interval([0.5] * 6 + [0.0] * 6, [0.25] * 6 + [0.0] * 6)
    assert gates["significance"].value == pytest.approx(-high)
    # All of it: a rise that any disturbance brings, however sure, is none.
    risen = [value + 0.3 for value in BEFORE]
    assert failed(judge_uniqueness(risen, controls=[risen])) == [
        "effect", "significance", "better_than_random"
    ]  # fmt: skip


def test_a_control_that_does_harm_makes_no_effect() -> None:
    # Random components make it worse and the correction changes nothing: it leads, and that is
    # not what it is for.
    control = [value - 0.44 for value in AFTER]
    gates = judge_uniqueness(AFTER, before=AFTER, controls=[control])
    assert gates["effect"].value == 0
    assert failed(gates) == ["effect", "significance"]


def test_a_fall_of_the_mean_score_where_lower_is_better() -> None:
    behaviour = build_behaviour(headline=MeasureName.MEAN_SCORE, min_effect=0.2)
    gates = judge_uniqueness(BEFORE, before=AFTER, controls=[AFTER], behaviour=behaviour)
    assert gates["effect"].value == pytest.approx(mean(AFTER) - mean(BEFORE))
    assert failed(gates) == []
    worse = judge_uniqueness(behaviour=behaviour)
    assert failed(worse) == ["effect", "significance", "better_than_random"]


def test_a_fall_of_the_share_where_higher_is_better() -> None:
    behaviour = build_behaviour(FunctionScorer(direction=HIGHER), min_effect=0.5)
    turned = [[tuple(1 - score for score in row) for row in rows] for rows in (TOXIC, TAMED)]
    before, after = map(responses_of, turned)
    gates = judge(behaviour, before, after, [before])
    assert gates["effect"].value == pytest.approx(0.75)
    assert failed(gates) == []


def fail_effect() -> dict[str, GateResult]:
    demanding = build_behaviour(
        FunctionScorer(direction=HIGHER), headline=MeasureName.MEAN_SCORE, min_effect=0.9
    )
    return judge_uniqueness(behaviour=demanding)


def fail_significance() -> dict[str, GateResult]:
    # One prompt gains much, the others lose a little: the mean rises, the interval holds zero.
    after = [1.0] + [value - 0.01 for value in BEFORE[1:]]
    lenient = build_behaviour(
        FunctionScorer(direction=HIGHER), headline=MeasureName.MEAN_SCORE, min_effect=0.05
    )
    controls = [[value - 0.5 for value in BEFORE]]
    return judge_uniqueness(after, controls=controls, behaviour=lenient)


def fail_held_out_prompts() -> dict[str, GateResult]:
    return judge_uniqueness(AFTER[:9], before=BEFORE[:9], controls=[draw[:9] for draw in CONTROLS])


def test_no_better_than_random_is_no_effect() -> None:
    everything = ["effect", "significance", "better_than_random"]
    assert failed(judge_uniqueness(controls=[AFTER])) == everything


@pytest.mark.parametrize(
    ("gate", "build"),
    [
        ("effect", fail_effect),
        ("significance", fail_significance),
        ("held_out_prompts", fail_held_out_prompts),
    ],
)
def test_each_gate_alone_can_fail(gate: str, build) -> None:
    assert failed(build()) == [gate]


def test_limits_themselves_are_allowed() -> None:
    exact = build_behaviour(
        FunctionScorer(direction=HIGHER),
        headline=MeasureName.MEAN_SCORE,
        min_effect=mean(AFTER) - mean(BEFORE) - 0.01 - 1e-12,
    )
    assert failed(judge_uniqueness(behaviour=exact)) == []
    ten = judge_uniqueness(AFTER[:10], before=BEFORE[:10], controls=[row[:10] for row in CONTROLS])
    assert failed(ten) == []


def test_no_change_is_neither_significant_nor_better_than_random() -> None:
    free = build_behaviour(
        FunctionScorer(direction=HIGHER), headline=MeasureName.MEAN_SCORE, min_effect=0.0
    )
    gates = judge_uniqueness(BEFORE, controls=[BEFORE], behaviour=free)
    assert failed(gates) == ["significance", "better_than_random"]
    toxic = responses_of(TOXIC)
    gates = judge(TOXICITY, toxic, toxic, [toxic])
    assert gates["effect"].value == 0
    assert failed(gates) == ["effect", "significance", "better_than_random"]


def test_without_the_behaviour_a_share_cannot_fall() -> None:
    clean = responses_of([(0.1, 0.2)] * 12)
    gates = judge(TOXICITY, clean, clean, [clean])
    assert gates["effect"].value == 0
    assert failed(gates) == ["effect", "significance", "better_than_random"]


def test_a_worse_model_fails() -> None:
    before, after = responses_of(TAMED), responses_of(TOXIC)
    gates = judge(TOXICITY, before, after, [before])
    assert gates["effect"].value == pytest.approx(-3.0)
    assert failed(gates) == ["effect", "significance", "better_than_random"]


# --- evaluators ----------------------------------------------------------------------------


def combine(*evaluators: Sequence[Sequence[float]]) -> Responses:
    """Responses with the scores of several evaluators, each given as rows a prompt."""
    return tuple(
        tuple(respond_with(*scores) for scores in zip(*rows, strict=True))
        for rows in zip(*evaluators, strict=True)
    )


def judge_three(
    agreeing: int, *, min_effect: float = 0.4, controls: Sequence[Responses] | None = None
) -> dict[str, GateResult]:
    """Of three evaluators one sees a fall by 0.75, one by 0.5, and one none."""
    scorers = [FunctionScorer(name=name) for name in "abc"]
    behaviour = build_behaviour(*scorers, agreeing=agreeing, min_effect=min_effect)
    before = combine(TOXIC, TOXIC, TOXIC)
    after = combine(HALVED, TOXIC, TAMED)
    return judge(behaviour, before, after, controls or [before])


@pytest.mark.parametrize(("agreeing", "effect"), [(1, 0.75), (2, 0.5), (3, 0.0)])
def test_the_value_is_what_enough_evaluators_find(agreeing: int, effect: float) -> None:
    gates = judge_three(agreeing)
    assert gates["effect"].value == pytest.approx(effect)
    disputed = ["effect", "significance", "better_than_random"]
    assert failed(gates) == ([] if agreeing < 3 else disputed)
    for name in disputed:
        assert gates[name].sentence.endswith(f", by at least {agreeing} of 3 evaluators")
    assert "evaluators" not in gates["held_out_prompts"].sentence


def test_a_single_evaluator_is_not_counted_out_loud() -> None:
    assert not any("evaluator" in gate.sentence for gate in judge_uniqueness().values())


def test_two_evaluators_that_disagree_fail() -> None:
    scorers = FunctionScorer(name="a"), FunctionScorer(name="b")
    before, after = combine(TOXIC, TOXIC), combine(TAMED, TOXIC)
    both = build_behaviour(*scorers, agreeing=2)
    either = build_behaviour(*scorers, agreeing=1)
    disputed = ["effect", "significance", "better_than_random"]
    assert failed(judge(both, before, after, [before])) == disputed
    assert failed(judge(either, before, after, [before])) == []
    # An evaluator that sees it grow does not outvote one that sees it fall, nor the reverse.
    assert failed(judge(both, combine(TOXIC, TAMED), combine(TAMED, TOXIC), [before])) == disputed


def test_the_same_evaluators_must_meet_every_gate() -> None:
    # One sees a fall no random selection brings; the other one, a larger fall that it sees at
    # random as well. Neither of them alone would pass.
    behaviour = build_behaviour(
        FunctionScorer(name="a"), FunctionScorer(name="b"), agreeing=1, min_effect=0.6
    )
    before, after = combine(TOXIC, TOXIC), combine(HALVED, TAMED)
    control = combine(TOXIC, TAMED)
    gates = judge(behaviour, before, after, [control])
    assert len(failed(gates)) == 1


def test_an_evaluator_that_meets_every_gate_is_not_outdone_by_a_larger_effect() -> None:
    # The other one sees more change, and as much of it at random.
    behaviour = build_behaviour(
        FunctionScorer(name="a"), FunctionScorer(name="b"), agreeing=1, min_effect=0.4
    )
    before, after = combine(TOXIC, TOXIC), combine(HALVED, TAMED)
    gates = judge(behaviour, before, after, [combine(TOXIC, TAMED)])
    assert gates["effect"].value == pytest.approx(0.5)
    assert failed(gates) == []


# --- what remains --------------------------------------------------------------------------


def judge_remaining(limit: float | None, after: Responses) -> GateResult | None:
    behaviour = build_behaviour(FunctionScorer(name="judge"), max_remaining=limit)
    before = responses_of(TOXIC)
    sides = BehaviourSides((), (), before, BehaviourResponses(corrected=after, controls=(before,)))
    gates = build_effect_gates(behaviour, sides)
    found = [gate for gate in gates if gate.name == "remaining:rudeness"]
    return found[0] if found else None


@pytest.mark.parametrize(("limit", "is_met"), [(0.125, True), (0.124, False), (0.0, False)])
def test_what_remains_is_limited(limit: float, is_met: bool) -> None:
    gate = judge_remaining(limit, responses_of(TAMED))
    assert gate is not None
    assert (gate.value, gate.limit, gate.passed) == (6 / 48, limit, is_met)
    assert (gate.before, gate.after, gate.count) == (0.5, 6 / 48, 48)
    assert (gate.group, gate.bound) == (GateGroup.EFFECT, GateBound.AT_MOST)


def test_without_a_limit_nothing_is_asked_of_what_remains() -> None:
    assert judge_remaining(None, responses_of(TOXIC)) is None


# --- what a search wants -------------------------------------------------------------------


def test_what_is_attained_is_the_effect_against_the_limit_and_a_margin() -> None:
    # A rise by 0.2 is asked, so 0.4 is wanted on tuning prompts.
    before, after = single(BEFORE), single(AFTER)
    wanted = (mean(AFTER) - mean(BEFORE)) / 0.4
    assert measure_attained(UNIQUENESS, before, after) == pytest.approx(wanted)
    # The share falls by three quarters; a half is asked, and more than all cannot fall.
    tamed = measure_attained(TOXICITY, responses_of(TOXIC), responses_of(TAMED))
    assert tamed == pytest.approx(0.75)
    assert measure_attained(TOXICITY, responses_of(TAMED), responses_of(TOXIC)) < 0


@pytest.mark.parametrize(
    ("limit", "attained"),
    [
        (1.0, 1.5),  # as much may remain as was there: the effect alone counts, 0.75 of 0.5
        (0.1, 0.375 / (0.5 - 0.05)),
        (0.0, 0.75),
    ],
)
def test_a_limit_on_what_remains_is_wanted_too(limit: float, attained: float) -> None:
    behaviour = build_behaviour(
        FunctionScorer(direction=LOWER), min_effect=0.25, max_remaining=limit
    )
    found = measure_attained(behaviour, responses_of(TOXIC), responses_of(TAMED))
    assert found == pytest.approx(attained)


def test_what_as_many_scorers_as_must_agree_find_is_attained() -> None:
    def read(agreeing: int) -> float:
        scorers = (FunctionScorer(direction=LOWER), FunctionScorer(direction=LOWER))
        behaviour = build_behaviour(*scorers, min_effect=0.5, agreeing=agreeing)
        before = ((respond_with(0.9, 0.9),), (respond_with(0.9, 0.9),))
        after = ((respond_with(0.1, 0.9),), (respond_with(0.9, 0.9),))
        return measure_attained(behaviour, before, after)

    assert read(1) == pytest.approx(0.5)
    assert read(2) == 0.0
