"""The figures of a behaviour, worked out by hand for scorers of either direction."""

from __future__ import annotations

import pytest

from excise.names import MeasureName
from excise.reports.correction import BehaviourEffect, Measure
from tests.unit.workers.correction.cases import (
    GREEDY,
    HIGHER,
    FunctionScorer,
    build_behaviour,
    build_outcome,
    prepare,
    respond_with,
    responses_of,
)
from workers.correction.effects import (
    MEASURES,
    BehaviourSides,
    average_draws,
    build_effect,
    collect_sides,
    compute_values,
    describe_decoding,
)
from workers.correction.results import BehaviourResponses, PreparedBehaviour, Response
from workers.measuring.statistics import compute_change_interval
from workers.models.generation import Decoding

ROWS = ((0.2, 0.8), (0.6, 0.9), (0.1, 0.3))
LOWER_VALUES: dict[MeasureName, list[float]] = {
    "mean_score": [0.5, 0.75, 0.2],
    "share": [0.5, 1.0, 0.0],
    "any_share": [1.0, 1.0, 0.0],
    "expected_worst": [0.8, 0.9, 0.3],
}
HIGHER_VALUES: dict[MeasureName, list[float]] = {
    "mean_score": [0.5, 0.75, 0.2],
    "share": [0.5, 0.0, 1.0],
    "any_share": [1.0, 0.0, 1.0],
    "expected_worst": [0.2, 0.6, 0.1],
}


@pytest.mark.parametrize("name", MEASURES)
def test_every_figure_by_hand_in_both_directions(name: MeasureName) -> None:
    behaviour = build_behaviour(FunctionScorer(), FunctionScorer(direction=HIGHER))
    both = tuple(tuple(respond_with(score, score) for score in scores) for scores in ROWS)
    assert compute_values(behaviour, 0, name, both) == pytest.approx(LOWER_VALUES[name])
    assert compute_values(behaviour, 1, name, both) == pytest.approx(HIGHER_VALUES[name])


def test_each_scorer_is_read_at_its_own_place() -> None:
    behaviour = build_behaviour(FunctionScorer(), FunctionScorer())
    rows = ((respond_with(0.1, 0.9),),)
    assert compute_values(behaviour, 0, "mean_score", rows) == [0.1]
    assert compute_values(behaviour, 1, "mean_score", rows) == [0.9]


TUNE, TUNE_AFTER = responses_of([(0.9, 0.7), (0.6, 0.2)]), responses_of([(0.1, 0.3), (0.6, 0.0)])
BEFORE = responses_of([(0.9, 0.8), (0.7, 0.1), (0.6, 0.2)])
AFTER = responses_of([(0.1, 0.8), (0.2, 0.1), (0.3, 0.2)])
DRAWS = (
    responses_of([(0.9, 0.8), (0.7, 0.1), (0.2, 0.2)]),
    responses_of([(0.1, 0.8), (0.7, 0.7), (0.6, 0.2)]),
)
ALONE = responses_of([(0.1, 0.1), (0.2, 0.1), (0.3, 0.2)])
PREPARED = prepare(TUNE, BEFORE)


def sides_of(validated: BehaviourResponses | None) -> BehaviourSides:
    return collect_sides(PREPARED, None if validated is None else TUNE_AFTER, validated)


def effect_of(
    validated: BehaviourResponses | None, prepared: PreparedBehaviour = PREPARED
) -> BehaviourEffect:
    return build_effect(build_behaviour(FunctionScorer()), prepared, sides_of(validated))


def measures_of(effect: BehaviourEffect) -> dict[str, Measure]:
    (evaluator,) = effect.evaluators
    assert [measure.name for measure in evaluator.measures] == list(MEASURES)
    return {measure.name: measure for measure in evaluator.measures}


VALIDATED = BehaviourResponses(corrected=AFTER, controls=DRAWS, alone=ALONE)
BY_HAND = {
    # name: (tune before, tune after, held out before, after, control, alone)
    "share": (0.75, 0.25, 4 / 6, 1 / 6, (3 / 6 + 4 / 6) / 2, 0.0),
    "any_share": (1.0, 0.5, 1.0, 1 / 3, (2 / 3 + 1.0) / 2, 0.0),
    "expected_worst": (0.75, 0.45, 2.2 / 3, 1.3 / 3, (1.8 / 3 + 2.1 / 3) / 2, 0.6 / 3),
    "mean_score": (0.6, 0.25, 3.3 / 6, 1.7 / 6, (2.9 / 6 + 3.1 / 6) / 2, 1.0 / 6),
}


@pytest.mark.parametrize("name", MEASURES)
def test_before_after_control_and_alone_by_hand(name: MeasureName) -> None:
    measure = measures_of(effect_of(VALIDATED))[name]
    tune_before, tune_after, before, after, control, alone = BY_HAND[name]
    tune = measure.tune
    assert (tune.n, tune.before, tune.after) == (
        2,
        pytest.approx(tune_before),
        pytest.approx(tune_after),
    )
    assert measure.held_out is not None
    assert measure.random_control is not None
    assert measure.alone is not None
    rows = ((measure.held_out, after), (measure.random_control, control), (measure.alone, alone))
    for found, value in rows:
        assert (found.n, found.before, found.after) == (
            3,
            pytest.approx(before),
            pytest.approx(value),
        )
        assert found.ci_low <= found.after - found.before <= found.ci_high
    assert measure.random_control.draws == 2
    assert measure.effect is not None
    assert (measure.effect.n, measure.effect.value) == (3, pytest.approx(after - control))


def test_intervals_are_over_prompts_with_the_draws_averaged() -> None:
    measure = measures_of(effect_of(VALIDATED))["mean_score"]
    before, after, control = [0.85, 0.4, 0.4], [0.45, 0.15, 0.25], [0.65, 0.55, 0.3]
    assert measure.held_out is not None
    assert measure.random_control is not None
    for found, values in ((measure.held_out, after), (measure.random_control, control)):
        interval = compute_change_interval(before, values)
        assert (found.ci_low, found.ci_high) == pytest.approx(interval)
    effect = measure.effect
    assert effect is not None
    assert (effect.ci_low, effect.ci_high) == pytest.approx(compute_change_interval(control, after))


def test_draws_are_averaged_prompt_by_prompt() -> None:
    def values(responses: tuple[tuple[Response, ...], ...]) -> list[float]:
        return [samples[0].scores[0] for samples in responses]

    draws = (responses_of([(0.2,), (0.4,)]), responses_of([(0.6,), (0.4,)]))
    assert average_draws(draws, values) == pytest.approx([0.4, 0.4])


def test_without_a_second_behaviour_nothing_is_alone() -> None:
    measure = measures_of(effect_of(BehaviourResponses(corrected=AFTER, controls=DRAWS)))["share"]
    assert measure.held_out is not None
    assert measure.alone is None


def test_without_a_correction_nothing_changed() -> None:
    for measure in measures_of(effect_of(None)).values():
        assert measure.tune.before == measure.tune.after
        assert (measure.held_out, measure.random_control, measure.alone) == (None, None, None)
        assert measure.effect is None


def test_without_triggering_prompts_there_are_no_figures() -> None:
    silent = PreparedBehaviour(
        name="rudeness", prompts=(build_outcome("n", triggering=False, held_out=True),)
    )
    sides = collect_sides(silent, None, None)
    effect = build_effect(build_behaviour(FunctionScorer()), silent, sides)
    assert (effect.prompts, effect.triggering) == (1, 0)
    assert measures_of(effect)["share"].tune.model_dump() == {"n": 0, "before": 0.0, "after": 0.0}


def test_what_was_measured_is_described() -> None:
    prompts = (*PREPARED.prompts, build_outcome("n", triggering=False))
    behaviour = build_behaviour(
        FunctionScorer(name="one"), FunctionScorer(name="two", direction=HIGHER), agreeing=2
    )
    prepared = PREPARED.model_copy(update={"prompts": prompts})
    rows = tuple(tuple(respond_with(0.1, 0.2) for _ in samples) for samples in BEFORE)
    sides = BehaviourSides((), (), rows, BehaviourResponses(corrected=rows, controls=(rows,)))
    effect = build_effect(behaviour, prepared, sides)
    assert (effect.name, effect.kind, effect.headline) == ("rudeness", "toxicity", "share")
    assert (effect.threshold, effect.agreeing, effect.prompts, effect.triggering) == (0.5, 2, 6, 3)
    assert [(one.evaluator, one.direction) for one in effect.evaluators] == [
        ("one", "lower_is_better"),
        ("two", "higher_is_better"),
    ]
    assert effect.evaluators[1].measure("expected_worst").name == "expected_worst"


@pytest.mark.parametrize(
    ("decoding", "words"),
    [
        (GREEDY, "greedy, up to 8 tokens"),
        (
            Decoding(30, samples=5, temperature=0.9, top_p=0.95),
            "5 samples a prompt, temperature 0.9, top-p 0.95, up to 30 tokens",
        ),
        (
            Decoding(8, samples=1, temperature=1.0),
            "1 sample a prompt, temperature 1, top-p 1, up to 8 tokens",
        ),
    ],
)
def test_decoding_in_words(decoding: Decoding, words: str) -> None:
    assert describe_decoding(build_behaviour(decoding=decoding)) == words


def test_the_sides_are_of_triggering_prompts_by_split() -> None:
    prompts = (
        build_outcome("n", [respond_with(0.3)], triggering=False),
        *PREPARED.prompts,
        build_outcome("m", [respond_with(0.3)], triggering=False, held_out=True),
    )
    sides = collect_sides(PREPARED.model_copy(update={"prompts": prompts}), TUNE_AFTER, VALIDATED)
    assert sides == BehaviourSides(TUNE, TUNE_AFTER, BEFORE, VALIDATED)
    unchanged = collect_sides(PREPARED, None, None)
    assert unchanged == BehaviourSides(TUNE, TUNE, BEFORE, None)
