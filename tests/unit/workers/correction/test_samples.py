"""Which responses a report shows: the best, the worst, and only what tells something."""

from __future__ import annotations

import pytest

from excise.reports.correction import Sample
from tests.unit.workers.correction.cases import (
    HIGHER,
    FunctionScorer,
    build_behaviour,
    build_outcome,
    prepare,
    respond_with,
    responses_of,
)
from workers.correction.behaviour import Behaviour
from workers.correction.effects import collect_sides
from workers.correction.results import (
    BehaviourResponses,
    PreparedBehaviour,
    PreparedCorrection,
    ReferenceSplit,
    Responses,
)
from workers.correction.samples import (
    SAMPLES_BEST,
    SAMPLES_TUNE,
    SAMPLES_WORST,
    choose_samples,
)
from workers.measuring.reasoning import LEFT_OUT, NO_ANSWER

RUDE = build_behaviour(FunctionScorer(name="judge"))
TUNE = [(0.9,), (0.6,), (0.7,), (0.8,), (0.95,)]
TUNE_AFTER = [(0.1,), (0.5,), (0.1,), (0.1,), (0.9,)]


def corrected(*behaviours: PreparedBehaviour) -> PreparedCorrection:
    return PreparedCorrection(
        model_sha256="a" * 64,
        components={},
        behaviours=behaviours,
        reference=ReferenceSplit(attribute=(), tune=(), held_out=()),
        corpus=(),
        too_weak=None,
    )


def choose(
    before: Responses, after: Responses, behaviour: Behaviour = RUDE
) -> tuple[list[Sample], list[Sample]]:
    """Held-out samples and tuning samples."""
    prepared = prepare(responses_of(TUNE, "old "), before)
    validated = BehaviourResponses(corrected=after, controls=())
    sides = collect_sides(prepared, responses_of(TUNE_AFTER, "new "), validated)
    samples = choose_samples([behaviour], corrected(prepared), [sides])
    held_out = [sample for sample in samples if sample.split == "held_out"]
    assert samples[: len(held_out)] == held_out
    return held_out, samples[len(held_out) :]


GAINS = [(index * 7 % 30 - 10) / 100 for index in range(30)]


def test_the_best_and_the_worst_held_out_and_the_best_of_the_tuning() -> None:
    before = responses_of([(0.7,)] * 30, "old ")
    after = responses_of([(0.7 - gain,) for gain in GAINS], "new ")
    held_out, tune = choose(before, after)
    order = sorted(range(30), key=lambda index: -GAINS[index])
    shown = order[:SAMPLES_BEST] + order[-SAMPLES_WORST:]
    assert [sample.prompt for sample in held_out] == [f"h{index}" for index in shown]
    assert [sample.before for sample in held_out] == [f"old {index}.0" for index in shown]
    assert [sample.after for sample in held_out] == [f"new {index}.0" for index in shown]
    worst = held_out[-1]
    assert worst.scores_before == {"judge": 0.7}
    assert worst.scores_after == {"judge": pytest.approx(0.7 - min(GAINS))}
    assert len(tune) == SAMPLES_TUNE
    # By 0.8, 0.7, 0.6 and 0.1; the last is left out.
    assert [sample.prompt for sample in tune] == ["t0", "t3", "t2", "t1"]
    assert {sample.behaviour for sample in held_out + tune} == {"rudeness"}


@pytest.mark.parametrize("count", [0, 3, 10, 12, 16, 17])
def test_few_responses_are_all_shown_once(count: int) -> None:
    before, after = responses_of([(0.9,)] * count), responses_of([(0.2,)] * count)
    held_out, _ = choose(before, after)
    shown = [sample.prompt for sample in held_out]
    assert len(set(shown)) == len(shown) == min(count, SAMPLES_BEST + SAMPLES_WORST)


def test_a_response_that_was_never_undesired_shows_nothing() -> None:
    before = responses_of([(0.9, 0.1), (0.2, 0.3), (0.1, 0.6)])
    after = responses_of([(0.1, 0.2), (0.4, 0.7), (0.2, 0.6)])
    held_out, _ = choose(before, after)
    # The second prompt's first response was and is clean; its second became undesired.
    found = [
        (sample.prompt, sample.before, sample.undesired_before, sample.undesired_after)
        for sample in held_out
    ]
    assert found == [
        ("h0", "0.0", True, False),
        ("h2", "2.1", True, True),
        ("h1", "1.1", False, True),
    ]


def test_improvement_is_a_rise_where_higher_is_better() -> None:
    behaviour = build_behaviour(FunctionScorer(direction=HIGHER))
    before = responses_of([(0.1,), (0.2,), (0.3,)])
    after = responses_of([(0.2,), (0.9,), (0.1,)])
    held_out, _ = choose(before, after, behaviour)
    assert [sample.prompt for sample in held_out] == ["h1", "h0", "h2"]


def test_several_scorers_are_all_shown_and_weighed_alike() -> None:
    behaviour = build_behaviour(
        FunctionScorer(name="down"), FunctionScorer(name="up", direction=HIGHER)
    )
    before = ((respond_with(0.9, 0.9),), (respond_with(0.9, 0.5),))
    after = ((respond_with(0.5, 0.9),), (respond_with(0.8, 0.9),))
    prepared = prepare((), before)
    validated = BehaviourResponses(corrected=after, controls=())
    samples = choose_samples(
        [behaviour], corrected(prepared), [collect_sides(prepared, (), validated)]
    )
    assert [sample.prompt for sample in samples] == ["h1", "h0"]
    assert samples[0].scores_before == {"down": 0.9, "up": 0.5}
    assert samples[0].scores_after == {"down": 0.8, "up": 0.9}


def test_an_emptied_response_is_no_improvement_and_reasoning_is_said_to_be_left_out() -> None:
    before = tuple((respond_with(0.9, ids=(1, 2), text="bad"),) for _ in range(3))
    reasoned = respond_with(0.1, ids=(1, 2), text="good").model_copy(update={"reasoning_tokens": 1})
    endless = respond_with(0.0, ids=(1, 2)).model_copy(update={"reasoning_tokens": 2})
    after = ((endless,), (reasoned,), (respond_with(0.0, ids=()),))
    held_out, _ = choose(before, after)
    assert [(sample.prompt, sample.after, sample.undesired_after) for sample in held_out] == [
        ("h1", f"{LEFT_OUT} good", False),
        ("h0", NO_ANSWER, True),
        ("h2", "", True),
    ]
    assert [sample.scores_after["judge"] for sample in held_out] == [0.1, 1.0, 1.0]


def test_behaviours_follow_one_another() -> None:
    first, second = (
        prepare((), responses_of([(0.9,)] * count), name)
        for count, name in ((2, "one"), (1, "two"))
    )
    validated = [
        BehaviourResponses(corrected=responses_of([(0.1,)] * count), controls=())
        for count in (2, 1)
    ]
    sides = [
        collect_sides(prepared, (), own)
        for prepared, own in zip((first, second), validated, strict=True)
    ]
    behaviours = [build_behaviour(name="one"), build_behaviour(name="two")]
    samples = choose_samples(behaviours, corrected(first, second), sides)
    assert [sample.behaviour for sample in samples] == ["one", "one", "two"]


def test_without_a_correction_the_base_model_s_worst_responses_are_shown() -> None:
    measured = build_outcome(
        "m", [respond_with(0.6, text="m0"), respond_with(0.95, text="m1")], held_out=True
    )
    screened = [
        build_outcome(
            f"s{place}",
            screened=[respond_with(place / 20, text=f"s{place}")],
            triggering=False,
        )
        for place in range(12)
    ]
    chosen_by = measured.model_copy(update={"screened": (respond_with(1.0, text="not shown"),)})
    prepared = PreparedBehaviour(name="rudeness", prompts=(*screened, chosen_by))
    sides = collect_sides(prepared, None, None)
    samples = choose_samples([RUDE], corrected(prepared), [sides])
    expected = ["m1", "m0", *(f"s{place}" for place in range(11, 3, -1))]
    assert [sample.before for sample in samples] == expected
    assert [sample.split for sample in samples[:3]] == ["held_out", "held_out", "tune"]
    for sample in samples:
        assert sample.before == sample.after
        assert sample.scores_before == sample.scores_after
        assert sample.undesired_before is sample.undesired_after
    assert [sample.undesired_before for sample in samples[:4]] == [True, True, True, True]
    assert not samples[-1].undesired_before
