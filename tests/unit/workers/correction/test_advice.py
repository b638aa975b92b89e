"""What a report advises: when, with which counts, and when it keeps silent."""

from __future__ import annotations

import pytest

from excise.names import Granularity
from tests.unit.workers.correction.cases import (
    HIGHER,
    FunctionScorer,
    build_behaviour,
    build_trial,
    prepare,
    responses_of,
)
from workers.correction.advice import describe_search, list_advice
from workers.correction.budget import Budget
from workers.correction.results import PreparedCorrection, ReferenceSplit, SearchOutcome, Trial

NEURON = Granularity.NEURON
BUDGET = Budget(perplexity_increase=0.02, kl_mean=0.04)
RUDE = build_behaviour(FunctionScorer(), FunctionScorer(), agreeing=2)


def prepared(tune: int = 5, held_out: int = 5, too_weak: str | None = None) -> PreparedCorrection:
    rows = responses_of([(0.9,)] * max(tune, held_out))
    return PreparedCorrection(
        model_sha256="a" * 64,
        components={NEURON: 96},
        behaviours=(prepare(rows[:tune], rows[:held_out]),),
        reference=ReferenceSplit(attribute=(), tune=(), held_out=()),
        corpus=(),
        too_weak=too_weak,
    )


def advise(*trials: Trial, chosen: int | None = 0, most: int | None = 400) -> list[str]:
    amounts = {} if most is None else {NEURON: most}
    search = SearchOutcome(trials=trials, chosen=chosen)
    return list_advice((RUDE,), BUDGET, amounts, 3, prepared(), search)


def largest(kl: float = 0.01, perplexity: float = 9.9, count: int = 400) -> Trial:
    """A trial of `count` neurons; the base's perplexity is 10."""
    return build_trial(indices={"m0": list(range(count))}, kl=kl, perplexity=perplexity)


def test_a_search_that_stopped_at_its_largest_amount_says_so() -> None:
    (text,) = advise(largest())
    # A quarter of the KL: 0.8 / 0.25 = 3.2 times the damage, 1.79 times the amount.
    assert "largest amount, 400 neurons, with 25% of the KL budget and 0% of" in text
    assert "larger search.amounts, up to about 720, may do more" in text


@pytest.mark.parametrize(
    ("trial", "most"),
    [
        (largest(kl=0.03), 400),  # 0.75 of 0.8 is used
        (largest(perplexity=10.15), 400),  # of perplexity as well
        (largest(), 800),  # the search could have taken more and did not
        (largest(count=399), 400),  # there were no more that help
        (largest(), None),  # nothing is known of the amounts
    ],
)
def test_a_search_that_could_not_do_more_is_not_told(trial: Trial, most: int | None) -> None:
    assert advise(trial, most=most) == []


def test_no_more_is_advised_than_can_be_foretold() -> None:
    (text,) = advise(largest(kl=0.0))
    assert "up to about 1,600" in text


def bound(gain: float = 0.88, kl: float = 0.03, origin: str = "round 1") -> Trial:
    """A trial that loses too much of a slice; of KL the search may use 0.032."""
    return build_trial((gain,), kl=kl, within=False, bound_by="sums", origin=origin)


LAST = build_trial((0.5,), origin="round 3")


def test_rounds_that_ran_out_before_a_slice_was_spared_are_told() -> None:
    (text,) = advise(LAST, bound())
    assert "round 1 of neurons gained 88% and was within the budget but for sums" in text
    assert "the chosen trial gained 50%" in text
    assert "all 3 were used: more search.rounds may" in text


@pytest.mark.parametrize(
    "trials",
    [
        (LAST, bound(kl=0.033)),  # text as a whole was damaged too much as well
        (LAST, bound(gain=0.505)),  # it hardly gained more
        (build_trial((0.5,), origin="round 2"), bound()),  # rounds were left
        (LAST, build_trial((0.4,))),  # within the budget
    ],
)
def test_more_rounds_are_not_advised_where_they_would_not_help(trials: tuple[Trial, ...]) -> None:
    assert advise(*trials) == []


def test_without_a_choice_more_rounds_are_advised_as_well() -> None:
    budget, rounds = advise(bound(), bound(0.3, origin="round 3"), chosen=None)
    assert "Every trial took more" in budget
    assert "while nothing was chosen" in rounds


@pytest.mark.parametrize(
    ("trials", "words"),
    [
        ([build_trial((0.5,), within=False)], "Every trial took more. Give smaller"),
        ([build_trial((0.0,)), build_trial((-0.1,))], "No trial improved every behaviour"),
        ([build_trial((0.5,), within=False), build_trial((0.0,))], "What improves every"),
    ],
)
def test_a_search_without_a_choice_says_what_kept_it_from_one(
    trials: list[Trial], words: str
) -> None:
    (text,) = advise(*trials, chosen=None)
    assert words in text
    assert "80% of the budget, KL 0.032 and perplexity +1.60%" in text


def test_the_reason_counts_the_trials() -> None:
    trials = [build_trial((0.5,), within=False), build_trial((0.0,)), build_trial((0.2, -0.1))]
    assert describe_search(trials).endswith(
        "of 3 trials 2 kept within it and 1 improved every behaviour, none both"
    )


def test_a_weak_signal_names_counts_threshold_and_remedy() -> None:
    weak = prepared(tune=5, held_out=3, too_weak="signal too weak")
    (text,) = list_advice((RUDE,), BUDGET, {}, 3, weak, None)
    assert "scores ≥ 0.5 by 2 of 2 scorers; 5 tuning and 3 held-out prompts do, 4 of each" in text
    assert "Give more prompts" in text
    dull = build_behaviour(FunctionScorer(direction=HIGHER), threshold=0.25)
    (text,) = list_advice((dull,), BUDGET, {}, 3, weak, None)
    assert "scores ≤ 0.25 by 1 of 1" in text
    assert list_advice((RUDE,), BUDGET, {}, 3, prepared(too_weak="other"), None) == []
