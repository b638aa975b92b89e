"""Which trial is chosen, and which make up the front."""

from __future__ import annotations

import math

from tests.unit.workers.correction.cases import build_trial
from workers.correction.choice import choose_trial, find_front
from workers.correction.results import Trial


def test_the_largest_mean_gain_within_budget_is_chosen() -> None:
    trials = [build_trial((0.2, 0.4)), build_trial((0.35, 0.35)), build_trial((0.1, 0.2))]
    assert choose_trial(trials) == 1
    over = build_trial((0.9, 0.9), within=False)
    assert choose_trial([*trials, over]) == 1
    assert choose_trial([over]) is None
    assert choose_trial([]) is None


def test_every_behaviour_must_gain() -> None:
    for spoiled in ((0.9, 0.0), (0.9, -0.1), (-0.1, 0.9), (0.9, math.nan)):
        assert choose_trial([build_trial(spoiled), build_trial((0.1, 0.1))]) == 1
        assert choose_trial([build_trial(spoiled)]) is None


def test_the_behaviour_furthest_from_its_wanted_effect_decides_first() -> None:
    def trial(gains: tuple[float, float], attained: tuple[float, ...]) -> Trial:
        return build_trial(gains).model_copy(update={"attained": attained})

    uneven, even = trial((0.1, 0.9), (0.6, 1.8)), trial((0.2, 0.5), (0.9, 1.1))
    assert choose_trial([uneven, even]) == 1
    # Where both have what is wanted, more is better as before.
    enough = [trial((0.3, 0.5), (1.0, 1.1)), trial((0.3, 0.9), (1.0, 1.8))]
    assert choose_trial([uneven, even, *enough]) == 3
    # Trials stored by an earlier version, and those of one behaviour, go by their gains.
    alone = [build_trial((gain,)) for gain in (0.2, 0.3)]
    told = [
        trial.model_copy(update={"attained": (share,)})
        for trial, share in zip(alone, (0.9, 0.8), strict=True)
    ]
    assert choose_trial(told) == 1
    assert choose_trial([trial((0.2, 0.2), ()), trial((0.3, 0.3), ())]) == 1


def test_of_equals_the_furthest_from_every_limit_is_chosen() -> None:
    trials = [build_trial((0.5,)).model_copy(update={"use": use}) for use in (0.9, 0.4, 0.8)]
    assert choose_trial(trials) == 1
    assert choose_trial([*trials, build_trial((0.6,)).model_copy(update={"use": 1.0})]) == 3


def test_of_equals_the_fewest_components_are_chosen() -> None:
    sizes = [3, 2, 4, 2]
    trials = [build_trial((0.5,), indices={"m0": list(range(size))}) for size in sizes]
    assert choose_trial(trials) == 1


def test_where_answers_alone_are_over_the_least_is_left_to_the_verdict() -> None:
    def over(gain: float, use: float, *, is_text_kept: bool) -> Trial:
        changes = {"use": use, "is_text_kept": is_text_kept}
        return build_trial((gain,), within=False).model_copy(update=changes)

    trials = [
        over(0.9, 1.5, is_text_kept=True),
        over(0.5, 1.1, is_text_kept=True),
        over(0.9, 1.05, is_text_kept=False),
        over(-0.1, 1.01, is_text_kept=True),
    ]
    assert choose_trial(trials) == 1
    assert choose_trial([*trials, build_trial((0.2,))]) == 4
    assert choose_trial(trials[2:]) is None


def test_the_front_is_what_no_other_trial_beats_in_gain_and_divergence() -> None:
    points = [(0.5, 0.02), (0.4, 0.01), (0.3, 0.015), (0.5, 0.03), (0.6, 0.09), (0.1, 0.01)]
    trials = [build_trial((gain,), kl=kl) for gain, kl in points]
    assert find_front(trials) == (0, 1, 4)
    # Equal ones do not beat each other; budget does not matter to a front.
    assert find_front([trials[0], trials[0]]) == (0, 1)
    assert find_front([build_trial((0.9,), kl=0.5, within=False), trials[0]]) == (0, 1)
    assert find_front([]) == ()
    # The gain is the mean over behaviours.
    assert find_front([build_trial((0.9, 0.1)), build_trial((0.6, 0.6))]) == (1,)
