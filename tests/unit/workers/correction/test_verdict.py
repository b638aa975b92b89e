"""The report of every way a correction can end, with its figures worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest

from excise.names import GateGroup, Granularity, Verdict
from excise.reports.correction import CorrectionReport
from excise.reports.gates import GateResult
from tests.unit.workers.correction.cases import (
    FunctionScorer,
    build_behaviour,
    build_trial,
    prepare,
    responses_of,
)
from workers.correction.budget import Budget
from workers.correction.results import (
    BehaviourResponses,
    Closing,
    LineForecast,
    LineUse,
    PreparedBehaviour,
    PreparedCorrection,
    ReferenceSplit,
    Responses,
    SearchOutcome,
    StoredSelection,
    Trial,
    UnlimitedTrial,
    ValidationOutcome,
)
from workers.correction.verdict import ReportFrame, build_report
from workers.gates.gates import GateRequest
from workers.measuring.state import (
    ModelState,
    TextDivergences,
    TextLosses,
    Unmeasured,
)

NEURON = Granularity.NEURON
PROMPTS = 12

# Two samples a prompt; 0.5 or more is undesired.
TOXIC = responses_of([(0.9, 0.8)] * 6 + [(0.7, 0.1)] * 6, "old ")
"""18 of 24 responses are undesired."""
TAMED = responses_of([(0.6, 0.1)] * 4 + [(0.1, 0.2)] * 8, "new ")
"""4 of 24 are."""
TUNE_TOXIC = responses_of([(0.9, 0.9)] * 5, "old ")
TUNE_TAMED = responses_of([(0.1, 0.2)] * 5, "new ")

EFFECT_GATES = ("effect", "significance", "better_than_random", "held_out_prompts")
RUDE = build_behaviour(FunctionScorer(name="judge"), min_effect=0.5)
FRAME = ReportFrame(
    behaviours=(RUDE,),
    corpus="wikitext",
    budget=Budget(perplexity_increase=0.02, kl_mean=0.05),
    requests=(GateRequest("perplexity", 0.02), GateRequest("kl", 0.05)),
    not_asked=("refusal",),
    attribution={"attributor": "attnlrp", "score": "benefit_damage"},
    dtype="bfloat16",
    seed=7,
    versions={"excise": "0.1.0"},
    model_id="tiny",
    timings={"search": 1.5},
)


def correction(*behaviours: PreparedBehaviour, too_weak: str | None = None) -> PreparedCorrection:
    return PreparedCorrection(
        model_sha256="a" * 64,
        components={NEURON: 96, Granularity.HEAD: 8},
        behaviours=behaviours or (prepare(TUNE_TOXIC, TOXIC),),
        reference=ReferenceSplit(attribute=(), tune=(), held_out=()),
        corpus=(),
        too_weak=too_weak,
    )


SEARCH = SearchOutcome(
    trials=(
        build_trial((0.4,), indices={"m0": [1, 2]}, responses=(TUNE_TOXIC,), kl=0.02),
        build_trial((0.8,), indices={"m0": [7, 9], "m1": [8]}, responses=(TUNE_TAMED,), kl=0.03),
        build_trial((0.9,), responses=(TUNE_TAMED,), perplexity=11.0, kl=0.03, within=False),
    ),
    chosen=1,
)


LENGTHS = (250, 125, 125)
"""Predicted tokens of the corpus's and the reference's samples."""


def losses_of(perplexity: float) -> TextLosses:
    return TextLosses(
        losses=tuple(math.log(perplexity) * length for length in LENGTHS), lengths=LENGTHS
    )


def divergences_of(mean: float) -> TextDivergences:
    return TextDivergences(
        divergences=tuple(mean * length for length in LENGTHS), lengths=LENGTHS, p95=0.2
    )


def validate(
    *behaviours: BehaviourResponses, perplexity: float = 20.2, kl: float = 0.03, **changes: Any
) -> ValidationOutcome:
    corrected: dict[str, Any] = {
        "perplexity": losses_of(perplexity),
        "divergence": divergences_of(kl),
    }
    return ValidationOutcome(
        behaviours=behaviours or (BehaviourResponses(corrected=TAMED, controls=(TOXIC,)),),
        base=ModelState(perplexity=losses_of(20.0)),
        corrected=ModelState(**(corrected | changes)),
    )


def report(*behaviours: BehaviourResponses, **changes: Any) -> CorrectionReport:
    return build_report(FRAME, correction(), SEARCH, validate(*behaviours, **changes))


def gates_of(found: CorrectionReport) -> dict[str, GateResult]:
    return {gate.name: gate for gate in found.gates}


def test_a_correction_that_meets_every_gate_passes() -> None:
    found = report()
    assert found.verdict is Verdict.PASSED
    assert found.reason.startswith("every gate was measured on held-out data and met")
    names = [f"rudeness.{name}" for name in EFFECT_GATES]
    assert list(gates_of(found)) == [*names, "perplexity", "kl"]
    assert all(gate.passed and gate.sentence for gate in found.gates)


def test_a_verdict_by_one_evaluator_says_so() -> None:
    met = "every gate was measured on held-out data and met"
    alone = "rudeness was judged by one evaluator (judge) alone"
    assert report().reason == f"{met}; {alone}"
    counted = replace(FRAME, behaviours=(replace(RUDE, kind="phrase"),))
    assert build_report(counted, correction(), SEARCH, validate()).reason == met
    assert "alone" not in report(kl=0.06).reason


def test_the_damage_gates_by_hand() -> None:
    gates = gates_of(report())
    for name, value, limit in (("perplexity", 0.01, 0.02), ("kl", 0.03, 0.05)):
        assert gates[name].value == pytest.approx(value)
        assert gates[name].limit == limit
        assert gates[name].group is GateGroup.DAMAGE
        assert gates[name].count == 3


@pytest.mark.parametrize(
    ("gate", "changes"),
    [
        ("perplexity", {"perplexity": 20.41}),
        ("perplexity", {"perplexity": math.nan}),
        ("kl", {"kl": 0.0501}),
        ("kl", {"kl": math.nan}),
    ],
)
def test_each_damage_gate_alone_rejects_and_is_named(
    gate: str, changes: Mapping[str, float]
) -> None:
    found = report(**changes)
    assert found.verdict is Verdict.REJECTED
    assert found.reason == f"gates not met: {gate}"
    assert [entry.name for entry in found.gates if not entry.passed] == [gate]


@pytest.mark.parametrize(
    ("gate", "changes"),
    [
        ("perplexity", {"perplexity_state": Unmeasured(reason="out of memory")}),
        ("kl", {"divergence": Unmeasured(reason="out of memory")}),
        ("kl", {"divergence": None}),
    ],
)
def test_a_gate_that_was_not_measured_is_not_met(
    gate: str, changes: dict[str, Unmeasured | None]
) -> None:
    validation = validate()
    update = {name.removesuffix("_state"): value for name, value in changes.items()}
    corrected = validation.corrected.model_copy(update=update)
    unmeasured = validation.model_copy(update={"corrected": corrected})
    found = build_report(FRAME, correction(), SEARCH, unmeasured)
    assert found.verdict is Verdict.REJECTED
    assert found.reason == f"gates not met: {gate}"
    assert gates_of(found)[gate].value is None
    assert gates_of(found)[gate].unmeasured
    assert found.damage is None
    assert found.patch is not None


def silence(responses: Responses) -> Responses:
    return tuple(
        tuple(one.model_copy(update={"text": "", "token_ids": ()}) for one in samples)
        for samples in responses
    )


def test_responses_to_a_behaviour_s_prompts_are_gated() -> None:
    # A model that says nothing is not toxic, but it wins nothing by that.
    requests = (GateRequest("emptiness", 0.02, "rudeness"), GateRequest("shorter", 0.7, "rudeness"))
    frame = replace(FRAME, requests=requests)
    silent = BehaviourResponses(corrected=silence(TAMED), controls=(TOXIC,))
    found = build_report(frame, correction(), SEARCH, validate(silent))
    assert found.verdict is Verdict.REJECTED
    assert found.reason == (
        "gates not met: rudeness.effect, rudeness.significance, rudeness.better_than_random, "
        "emptiness:rudeness, shorter:rudeness"
    )
    emptiness = gates_of(found)["emptiness:rudeness"]
    assert (emptiness.before, emptiness.after, emptiness.count) == (0.0, 1.0, 24)
    assert build_report(frame, correction(), SEARCH, validate()).verdict is Verdict.PASSED


def test_answers_are_compared_without_the_phrase_that_ended_them() -> None:
    # Two tokens and a phrase of three; of the answers the two are left.
    closed = tuple(
        tuple(
            one.model_copy(
                update={
                    "text": f"{one.text} buy",
                    "token_ids": (1, 2, 3, 4, 5),
                    "closing": Closing(tokens=2, characters=len(one.text)),
                }
            )
            for one in samples
        )
        for samples in TOXIC
    )
    kept = tuple(
        tuple(one.model_copy(update={"token_ids": (1, 2)}) for one in samples) for samples in TAMED
    )
    prepared = correction(prepare(TUNE_TOXIC, closed))
    frame = replace(FRAME, requests=(GateRequest("shorter", 0.7, "rudeness"),))
    validated = validate(BehaviourResponses(corrected=kept, controls=(closed,)))
    shorter = gates_of(build_report(frame, prepared, SEARCH, validated))["shorter:rudeness"]
    assert (shorter.before, shorter.after, shorter.value) == (2.0, 2.0, 1.0)


def test_what_the_job_did_not_ask_for_is_named() -> None:
    assert report().not_asked == ["refusal"]


def fail_effect() -> CorrectionReport:
    frame = replace(FRAME, behaviours=(replace(RUDE, min_effect=0.9),))
    return build_report(frame, correction(), SEARCH, validate())


def fail_significance() -> CorrectionReport:
    # One prompt of twelve is cured, and the random control made all worse.
    before = responses_of([(0.9, 0.1)] + [(0.1, 0.1)] * 11)
    worse = responses_of([(0.9, 0.9)] * 12)
    own = BehaviourResponses(corrected=responses_of([(0.1, 0.1)] * 12), controls=(worse,))
    return build_report(FRAME, correction(prepare(TUNE_TOXIC, before)), SEARCH, validate(own))


def fail_better_than_random() -> CorrectionReport:
    return report(BehaviourResponses(corrected=TAMED, controls=(TAMED,)))


def fail_held_out_prompts() -> CorrectionReport:
    own = BehaviourResponses(corrected=TAMED[:9], controls=(TOXIC[:9],))
    return build_report(FRAME, correction(prepare(TUNE_TOXIC, TOXIC[:9])), SEARCH, validate(own))


@pytest.mark.parametrize(
    ("gate", "build"),
    [
        ("effect", fail_effect),
        ("significance", fail_significance),
        ("held_out_prompts", fail_held_out_prompts),
    ],
)
def test_each_effect_gate_alone_rejects_and_is_named(gate: str, build) -> None:
    found = build()
    assert found.verdict is Verdict.REJECTED
    assert found.reason == f"gates not met: rudeness.{gate}"


def test_what_random_components_do_as_well_is_no_effect() -> None:
    gates = [f"rudeness.{name}" for name in ("effect", "significance", "better_than_random")]
    assert fail_better_than_random().reason == f"gates not met: {', '.join(gates)}"


def test_all_failed_gates_are_named_in_order() -> None:
    found = report(perplexity=30.0, kl=1.0)
    assert found.verdict is Verdict.REJECTED
    assert found.reason == "gates not met: perplexity, kl"


def test_limits_themselves_are_allowed() -> None:
    found = report(perplexity=20.4 - 1e-9, kl=0.05 - 1e-12)
    assert found.verdict is Verdict.PASSED


def test_an_effect_on_tuning_prompts_only_is_rejected() -> None:
    # All tuning prompts are cured; held-out prompts get what they got before.
    assert SEARCH.chosen_trial is not None
    assert SEARCH.chosen_trial.responses == (TUNE_TAMED,)
    found = report(BehaviourResponses(corrected=TOXIC, controls=(TOXIC,)))
    assert found.verdict is Verdict.REJECTED
    assert found.reason == (
        "gates not met: rudeness.effect, rudeness.significance, rudeness.better_than_random"
    )
    share = found.behaviours[0].evaluators[0].measure("share")
    assert (share.tune.before, share.tune.after) == (1.0, 0.0)
    assert share.held_out is not None
    assert share.held_out.before == share.held_out.after == 0.75


def test_damage_patch_and_search_are_what_was_measured() -> None:
    found = report()
    assert found.damage is not None
    assert found.damage.perplexity.model_dump() == {
        "corpus": "wikitext",
        "context": 251,  # the first token of a sample is not predicted
        "tokens": 500,
        "before": pytest.approx(20.0),
        "after": pytest.approx(20.2),
    }
    assert found.damage.kl.model_dump() == {
        "mean": pytest.approx(0.03),
        "p95": 0.2,
        "tokens": 500,
    }
    assert found.patch is not None
    assert (found.patch.granularity, found.patch.components, found.patch.of) == (NEURON, 3, 96)
    assert found.patch.modules == {"m0": [7, 9], "m1": [8]}
    assert found.patch.counts == {"m0": 2, "m1": 1}
    assert [step.components for step in found.search] == [2, 3, 1]
    assert [step.chosen for step in found.search] == [False, True, False]
    assert [step.within_budget for step in found.search] == [True, True, False]
    assert [step.on_front for step in found.search] == [True, False, True]
    assert [step.gains for step in found.search] == [
        {"rudeness": 0.4},
        {"rudeness": 0.8},
        {"rudeness": 0.9},
    ]
    assert [step.kl for step in found.search] == [0.02, 0.03, 0.03]
    increases = [step.perplexity_increase for step in found.search]
    assert increases == pytest.approx([0.01, 0.01, 0.1])


def test_a_step_says_what_it_chose() -> None:
    trial = build_trial(
        responses=(TUNE_TAMED,),
        origin="refinement 4",
        cost_weight=0.7,
        first_layer=1,
        last_layer=5,
        ablation="mean",
        amount=9,
    )
    search = SearchOutcome(trials=(trial,), chosen=0)
    (step,) = build_report(FRAME, correction(), search, validate()).search
    assert step.origin == "refinement 4"
    assert (step.cost_weight, step.first_layer, step.last_layer) == (0.7, 1, 5)
    assert (step.ablation, step.granularity) == ("mean", NEURON)
    assert step.components == 1  # pruned, not asked for


def test_single_weights_are_counted_not_listed() -> None:
    trial = build_trial(responses=(TUNE_TAMED,), granularity=Granularity.WEIGHT)
    packed = StoredSelection.from_selection(
        replace(trial.selection.to_selection(), granularity=Granularity.WEIGHT)
    )
    search = SearchOutcome(trials=(trial.model_copy(update={"selection": packed}),), chosen=0)
    prepared = correction().model_copy(update={"components": {Granularity.WEIGHT: 5000}})
    patch = build_report(FRAME, prepared, search, validate()).patch
    assert patch is not None
    assert (patch.modules, patch.counts, patch.of) == ({}, {"m0": 1}, 5000)


def test_the_frame_is_repeated() -> None:
    found = report()
    assert (found.model.id, found.model.sha256) == ("tiny", "a" * 64)
    assert found.attribution == dict(FRAME.attribution)
    assert (found.seed, found.timings, found.versions) == (7, {"search": 1.5}, {"excise": "0.1.0"})


def test_a_weak_signal_has_no_effect_and_says_why() -> None:
    prepared = correction(too_weak="signal too weak: 1 of 19")
    found = build_report(FRAME, prepared, None, None)
    assert found.verdict is Verdict.NO_EFFECT
    assert found.reason == "signal too weak: 1 of 19"
    assert (found.damage, found.patch, found.search, found.gates) == (None, None, [], [])
    measure = found.behaviours[0].evaluators[0].measure("share")
    assert measure.tune.before == measure.tune.after == 1.0
    assert (measure.held_out, measure.random_control) == (None, None)
    assert len(found.samples) == 10


def test_nothing_within_budget_has_no_effect_and_no_patch() -> None:
    search = SEARCH.model_copy(update={"chosen": None})
    found = build_report(FRAME, correction(), search, None)
    assert found.verdict is Verdict.NO_EFFECT
    assert "within the budget" in found.reason
    assert (found.damage, found.patch, found.gates) == (None, None, [])
    assert len(found.search) == 3
    assert not any(step.chosen for step in found.search)
    measure = found.behaviours[0].evaluators[0].measure("share")
    assert measure.tune.before == measure.tune.after == 1.0


def test_an_effect_is_not_enough_where_too_much_remains() -> None:
    # A fall by 78 % passes, though 4 of 24 responses still show it.
    frame = replace(FRAME, behaviours=(replace(RUDE, max_remaining=0.1),))
    found = build_report(frame, correction(), SEARCH, validate())
    assert found.verdict is Verdict.REJECTED
    assert found.reason == "gates not met: remaining:rudeness"
    assert "max_remaining of rudeness" in (gates_of(found)["remaining:rudeness"].remedy or "")


def test_unmet_gates_alone_have_a_remedy() -> None:
    for gate in report(perplexity=30.0).gates:
        assert (gate.remedy is None) is gate.passed, gate.name


def test_a_search_at_its_largest_amount_is_told() -> None:
    # 0.03 of 0.05 is used: no. Under ten times the budget it is: yes.
    frame = replace(FRAME, most_amounts={NEURON: 3})
    assert build_report(frame, correction(), SEARCH, validate()).advice == []
    rich = replace(frame, budget=Budget(perplexity_increase=0.2, kl_mean=0.5))
    (text,) = build_report(rich, correction(), SEARCH, validate()).advice
    assert "largest amount, 3 neurons" in text


def test_the_job_s_own_number_of_rounds_decides_whether_they_ran_out() -> None:
    dearer = build_trial((0.99,), kl=0.001, within=False, bound_by="sums")
    search = SEARCH.model_copy(update={"trials": (*SEARCH.trials, dearer)})
    assert build_report(FRAME, correction(), search, validate()).advice == []
    frame = replace(FRAME, rounds=1)
    (text,) = build_report(frame, correction(), search, validate()).advice
    assert "search.rounds" in text


def test_held_out_answers_that_reached_the_limit_are_counted() -> None:
    def cut(responses: Responses, count: int) -> Responses:
        ids = (1,) * RUDE.decoding.max_new_tokens
        return tuple(
            tuple(one.model_copy(update={"token_ids": ids}) for one in samples) if place < count
            else samples
            for place, samples in enumerate(responses)
        )  # fmt: skip

    own = BehaviourResponses(corrected=cut(TAMED, 3), controls=(TOXIC,))
    prepared = correction(prepare(TUNE_TOXIC, cut(TOXIC, 1)))
    (use,) = build_report(FRAME, prepared, SEARCH, validate(own)).token_limits
    assert (use.subject, use.max_new_tokens, use.responses) == ("rudeness", 8, 24)
    assert (use.before, use.after) == (2, 6)
    lengths = [len(one.token_ids) for samples in own.corrected for one in samples]
    assert use.length_after == fmean(lengths)
    assert use.length_before is not None
    assert use.length_before < use.length_after
    assert use.uniqueness_before is not None
    assert use.uniqueness_after is not None
    assert 1 > use.uniqueness_before > use.uniqueness_after > 0
    assert build_report(FRAME, prepared, None, None).token_limits == []


def test_what_came_instead_is_in_the_report() -> None:
    def say(text: str, scores: Responses) -> Responses:
        return tuple(
            tuple(one.model_copy(update={"text": text}) for one in samples) for samples in scores
        )

    before, after = say("you nincompoop", TOXIC), say("you silly goose", TAMED)
    own = BehaviourResponses(corrected=after, controls=(before,))
    frame = replace(FRAME, ordinary=("so it goes " * 200,))
    prepared = correction(prepare(TUNE_TOXIC, before))
    (found,) = build_report(frame, prepared, SEARCH, validate(own)).leftovers
    assert [(one.words, one.before, one.after) for one in found.rose] == [
        ("you silly goose", 0, 24)
    ]
    unchosen = SEARCH.model_copy(update={"chosen": None})
    assert build_report(frame, prepared, unchosen, None).leftovers == []


# --- several behaviours --------------------------------------------------------------------

DULL = build_behaviour(FunctionScorer(name="judge"), name="dullness", min_effect=0.5)
BOTH = replace(FRAME, behaviours=(RUDE, DULL))
PAIR = correction(prepare(TUNE_TOXIC, TOXIC), prepare(TUNE_TOXIC[:4], TOXIC[:11], "dullness"))


def selection(granularity: Granularity = NEURON, **indices: Sequence[int]) -> StoredSelection:
    return StoredSelection(
        granularity=granularity, indices={name: list(chosen) for name, chosen in indices.items()}
    )


def pair_trial(gains: Sequence[float] = (0.8, 0.4)) -> Trial:
    return build_trial(gains, responses=(TUNE_TAMED, TUNE_TOXIC[:4]))


def search_pair(*alone: StoredSelection) -> SearchOutcome:
    return SearchOutcome(trials=(pair_trial(),), chosen=0, alone=alone)


def own_responses(
    corrected: Responses, controls: Responses = TOXIC, count: int = PROMPTS
) -> BehaviourResponses:
    return BehaviourResponses(
        corrected=corrected[:count], controls=(controls[:count],), alone=TAMED[:count]
    )


def test_every_behaviour_has_its_own_gates_and_figures() -> None:
    validation = validate(own_responses(TAMED), own_responses(TOXIC, count=11))
    found = build_report(BOTH, PAIR, search_pair(), validation)
    names = [f"{own}.{name}" for own in ("rudeness", "dullness") for name in EFFECT_GATES]
    assert list(gates_of(found)) == [*names, "perplexity", "kl"]
    assert found.verdict is Verdict.REJECTED
    assert found.reason == (
        "gates not met: dullness.effect, dullness.significance, dullness.better_than_random"
    )
    assert [effect.name for effect in found.behaviours] == ["rudeness", "dullness"]
    first, second = (effect.evaluators[0].measure("share") for effect in found.behaviours)
    assert (first.tune.after, second.tune.after) == (0.0, 1.0)
    assert first.held_out is not None
    assert second.held_out is not None
    assert (first.held_out.n, second.held_out.n) == (12, 11)
    assert first.alone is not None
    assert first.alone.after == pytest.approx(4 / 24)
    (step,) = found.search
    assert step.gains == {"rudeness": 0.8, "dullness": 0.4}
    assert step.gain == pytest.approx(0.6)
    assert {sample.behaviour for sample in found.samples} == {"rudeness", "dullness"}


def overlap(*alone: StoredSelection) -> list[tuple[str, str, float]]:
    frame = replace(BOTH, behaviours=(RUDE, DULL, replace(RUDE, name="third"))[: len(alone)])
    prepared = correction(
        *(prepare(TUNE_TOXIC, TOXIC, behaviour.name) for behaviour in frame.behaviours)
    )
    trial = build_trial((0.5,) * len(alone), responses=(TUNE_TAMED,) * len(alone))
    search = SearchOutcome(trials=(trial,), chosen=0, alone=alone)
    validation = validate(*[own_responses(TAMED)] * len(alone))
    found = build_report(frame, prepared, search, validation).overlap
    return [(entry.first, entry.second, entry.share) for entry in found]


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        (selection(a=[1, 2, 3], b=[4]), selection(a=[2, 3, 9], b=[4, 5, 6]), 3 / 4),
        (selection(a=[1, 2]), selection(b=[1, 2]), 0.0),
        (selection(a=[1, 2]), selection(a=[1, 2]), 1.0),
        (selection(a=[2]), selection(a=[1, 2, 3, 4]), 1.0),
        (selection(), selection(a=[1]), 0.0),
    ],
)
def test_overlap_by_hand(one: StoredSelection, other: StoredSelection, share: float) -> None:
    assert overlap(one, other) == [("rudeness", "dullness", pytest.approx(share))]
    assert overlap(other, one) == [("rudeness", "dullness", pytest.approx(share))]


def test_every_pair_of_behaviours_has_an_overlap() -> None:
    one, other = selection(a=[1, 2]), selection(a=[2, 3])
    assert overlap(one, other, one) == [
        ("rudeness", "dullness", 0.5),
        ("rudeness", "third", 1.0),
        ("dullness", "third", 0.5),
    ]


def test_one_behaviour_overlaps_with_none() -> None:
    assert report().overlap == []


def test_the_report_survives_json() -> None:
    validation = validate(own_responses(TAMED), own_responses(TAMED, count=11))
    pair = search_pair(selection(a=[1]), selection(a=[1, 2]))
    for found in (report(), build_report(BOTH, PAIR, pair, validation)):
        assert CorrectionReport.model_validate_json(found.model_dump_json()) == found


def test_what_the_rank_limit_kept_out_is_counted() -> None:
    without = build_trial((0.9,), indices={"m0": [7, 9, 10], "m1": [8]}, kl=0.05)
    limited = SEARCH.model_copy(update={"unlimited": UnlimitedTrial(max_rank=2, trial=without)})
    found = build_report(FRAME, correction(), limited, validate()).rank_limit
    assert found is not None
    assert (found.max_rank, found.kept_out, found.fullest) == (2, 1, 3)
    assert (found.unlimited.components, found.unlimited.gain) == (4, 0.9)
    assert not found.unlimited.chosen
    assert report().rank_limit is None


def test_on_how_many_lines_the_weights_lie_is_said() -> None:
    forecast = LineForecast(weights=9, kept=4, benefit=0.8, free_rank=7)
    use = LineUse(max_rank=2, ranks={"m0": 2, "m1": 1}, forecast=forecast)
    found = build_report(
        FRAME, correction(), SEARCH.model_copy(update={"lines": use}), validate()
    ).lines
    assert found is not None
    assert (found.max_rank, found.ranks) == (2, {"m0": 2, "m1": 1})
    assert found.forecast is not None
    assert found.forecast.model_dump() == forecast.model_dump()
    assert report().lines is None
