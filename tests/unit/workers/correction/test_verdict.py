"""The report of every way a correction can end, with its figures worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from workers.correction.results import (
    PreparedCorrection,
    PromptOutcome,
    ReferenceSplit,
    Response,
    SearchOutcome,
    StoredSelection,
    Trial,
    ValidationOutcome,
)
from workers.correction.search import Budget
from workers.correction.verdict import ReportFrame, build_report
from workers.domain import GateResult, Granularity, Report, Verdict
from workers.validation.statistics import compute_paired_bootstrap_interval

TUNE_BEFORE = [0.1, 0.2, 0.3, 0.2, 0.2]
TUNE_AFTER = [0.9, 0.5, 0.4, 0.6, 0.6]
BEFORE = [0.10, 0.15, 0.20, 0.25, 0.30, 0.12, 0.18, 0.22, 0.28, 0.20, 0.24, 0.16]
AFTER = [0.50, 0.60, 0.70, 0.55, 0.65, 0.45, 0.62, 0.58, 0.70, 0.66, 0.52, 0.63]
CONTROL = tuple(tuple(value + shift for value in BEFORE) for shift in (0.01, -0.01, 0.03))
GATES = ("effect", "significance", "better_than_random", "held_out_prompts", "perplexity", "kl")

FRAME = ReportFrame(
    behaviour="repetition",
    metric="response_uniqueness_ratio",
    threshold=0.4,
    corpus="wikitext",
    min_effect=0.2,
    budget=Budget(perplexity_increase=0.02, kl_mean=0.05),
    attribution={"attributor": "attnlrp", "score": "benefit_cost"},
    seed=7,
    versions={"excise": "0.1.0"},
    model_id="tiny",
    timings={"search": 1.5},
)


def outcome(name: str, metric: float, *, held_out: bool, triggering: bool = True) -> PromptOutcome:
    return PromptOutcome(
        prompt=name,
        prompt_ids=(1,),
        response_ids=(2,),
        response=f"{name} before",
        metric=metric,
        triggering=triggering,
        held_out=held_out,
    )


def prepare(before: list[float] = BEFORE, too_weak: str | None = None) -> PreparedCorrection:
    held_out = [outcome(f"h{i}", value, held_out=True) for i, value in enumerate(before)]
    tune = [outcome(f"t{i}", value, held_out=False) for i, value in enumerate(TUNE_BEFORE)]
    silent = [
        outcome("n0", 0.9, held_out=True, triggering=False),
        outcome("n1", 0.8, held_out=False, triggering=False),
    ]
    return PreparedCorrection(
        model_sha256="a" * 64,
        components=96,
        prompts=(*held_out[:3], *silent, *tune, *held_out[3:]),
        reference=ReferenceSplit(attribute=(), tune=(), held_out=()),
        corpus=(),
        too_weak=too_weak,
    )


def trial(count: int, metrics: list[float], perplexity: float, *, within: bool = True) -> Trial:
    indices = {
        "m0": [9 - i for i in reversed(range(0, count, 2))],
        "m1": [9 - i for i in reversed(range(1, count, 2))],
    }
    return Trial(
        selection=StoredSelection(granularity=Granularity.NEURON, indices=indices),
        responses=tuple(
            Response(response=f"t{i} after", metric=value) for i, value in enumerate(metrics)
        ),
        perplexity=perplexity,
        base_perplexity=10.0,
        kl_mean=0.01 * count,
        within_budget=within,
    )


SEARCH = SearchOutcome(
    trials=(
        trial(2, [0.5] * 5, 10.1),
        trial(3, TUNE_AFTER, 10.1),
        trial(4, [0.9] * 5, 11.0, within=False),
    ),
    chosen=1,
)


def validate(after: list[float] = AFTER, **changes: Any) -> ValidationOutcome:
    responses = [Response(response=f"h{i} after", metric=v) for i, v in enumerate(after)]
    fields: dict[str, Any] = {
        "responses": tuple(responses),
        "control_metrics": CONTROL,
        "perplexity_before": 20.0,
        "perplexity_after": 20.2,
        "perplexity_tokens": 500,
        "perplexity_context": 128,
        "kl_mean": 0.03,
        "kl_p95": 0.2,
        "kl_tokens": 400,
    }
    return ValidationOutcome(**(fields | changes))


def report(**changes: Any) -> Report:
    return build_report(FRAME, prepare(), SEARCH, validate(**changes))


def gates_of(found: Report) -> dict[str, GateResult]:
    return {gate.name: gate for gate in found.gates}


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_a_correction_that_meets_every_gate_passes() -> None:
    found = report()
    assert found.verdict is Verdict.PASSED
    assert found.reason == "every gate was measured on held-out data and met"
    assert tuple(gates_of(found)) == GATES
    assert all(gate.passed and gate.sentence for gate in found.gates)


def test_gates_hold_values_and_limits_by_hand() -> None:
    gates = gates_of(report())
    low, _ = compute_paired_bootstrap_interval(BEFORE, AFTER, 7)
    control = [value + 0.01 for value in BEFORE]
    lead, _ = compute_paired_bootstrap_interval(control, AFTER, 7)
    expected = {
        "effect": (mean(AFTER) - mean(BEFORE), 0.2),
        "significance": (low, 0.0),
        "better_than_random": (lead, 0.0),
        "held_out_prompts": (12.0, 10.0),
        "perplexity": (0.01, 0.02),
        "kl": (0.03, 0.05),
    }
    for name, (value, limit) in expected.items():
        assert gates[name].value == pytest.approx(value), name
        assert gates[name].limit == limit


def fail_effect() -> Report:
    frame = replace(FRAME, min_effect=0.9)
    return build_report(frame, prepare(), SEARCH, validate())


def fail_significance() -> Report:
    # One prompt gains much, the others lose a little: the mean rises, the interval holds zero.
    after = [1.0] + [value - 0.01 for value in BEFORE[1:]]
    control = (tuple(value - 0.5 for value in BEFORE),)
    frame = replace(FRAME, min_effect=0.05)
    return build_report(frame, prepare(), SEARCH, validate(after, control_metrics=control))


def fail_better_than_random() -> Report:
    return report(control_metrics=(tuple(AFTER),))


def fail_held_out_prompts() -> Report:
    control = tuple(draw[:9] for draw in CONTROL)
    validation = validate(AFTER[:9], control_metrics=control)
    return build_report(FRAME, prepare(BEFORE[:9]), SEARCH, validation)


@pytest.mark.parametrize(
    ("gate", "build"),
    [
        ("effect", fail_effect),
        ("significance", fail_significance),
        ("better_than_random", fail_better_than_random),
        ("held_out_prompts", fail_held_out_prompts),
        ("perplexity", lambda: report(perplexity_after=20.41)),
        ("perplexity", lambda: report(perplexity_after=math.nan)),
        ("kl", lambda: report(kl_mean=0.0501)),
        ("kl", lambda: report(kl_mean=math.nan)),
    ],
)
def test_each_gate_alone_rejects_and_is_named(gate: str, build) -> None:
    found = build()
    assert found.verdict is Verdict.REJECTED
    assert found.reason == f"gates not met: {gate}"
    assert [entry.name for entry in found.gates if not entry.passed] == [gate]


def test_all_failed_gates_are_named_in_order() -> None:
    found = report(perplexity_after=30.0, kl_mean=1.0)
    assert found.verdict is Verdict.REJECTED
    assert found.reason == "gates not met: perplexity, kl"


def test_limits_themselves_are_allowed() -> None:
    found = report(perplexity_before=100.0, perplexity_after=101.5, kl_mean=0.05)
    assert found.verdict is Verdict.PASSED
    exact = replace(FRAME, min_effect=mean(AFTER) - mean(BEFORE) - 1e-12)
    assert build_report(exact, prepare(), SEARCH, validate()).verdict is Verdict.PASSED
    ten = validate(AFTER[:10], control_metrics=tuple(draw[:10] for draw in CONTROL))
    found = build_report(FRAME, prepare(BEFORE[:10]), SEARCH, ten)
    assert found.verdict is Verdict.PASSED


def test_no_change_at_all_is_not_significant() -> None:
    frame = replace(FRAME, min_effect=0.0)
    found = build_report(frame, prepare(), SEARCH, validate(BEFORE))
    assert {"significance", "better_than_random"} == {
        gate.name for gate in found.gates if not gate.passed
    }


def test_effects_by_hand() -> None:
    (effect,) = report().behaviours
    assert (effect.name, effect.metric) == ("repetition", "response_uniqueness_ratio")
    assert effect.direction == "higher_is_better"
    assert effect.threshold == 0.4
    assert (effect.prompts, effect.triggering) == (19, 17)
    assert (effect.tune.n, effect.tune.before, effect.tune.after) == (
        5,
        pytest.approx(0.2),
        pytest.approx(0.6),
    )
    held_out = effect.held_out
    assert held_out is not None
    assert held_out.n == 12
    assert held_out.before == pytest.approx(0.2)
    assert held_out.after == pytest.approx(mean(AFTER))
    low, high = compute_paired_bootstrap_interval(BEFORE, AFTER, 7)
    assert (held_out.ci_low, held_out.ci_high) == (low, high)
    assert low < held_out.after - held_out.before < high


def test_the_random_control_is_the_mean_of_its_draws_for_each_prompt() -> None:
    (effect,) = report().behaviours
    control = effect.random_control
    assert control is not None
    assert control.draws == 3
    assert control.before == pytest.approx(0.2)
    assert control.after == pytest.approx(0.21)
    assert (control.ci_low, control.ci_high) == pytest.approx((0.01, 0.01))


def test_the_control_interval_is_over_prompts_not_draws() -> None:
    draws = (tuple(AFTER), tuple(BEFORE))
    (effect,) = report(control_metrics=draws).behaviours
    halfway = [(one + other) / 2 for one, other in zip(AFTER, BEFORE, strict=True)]
    low, high = compute_paired_bootstrap_interval(BEFORE, halfway, 7)
    assert effect.random_control is not None
    assert effect.random_control.ci_low == pytest.approx(low)
    assert effect.random_control.ci_high == pytest.approx(high)


def test_damage_patch_and_search_are_what_was_measured() -> None:
    found = report()
    assert found.damage is not None
    assert found.damage.perplexity.model_dump() == {
        "corpus": "wikitext",
        "context": 128,
        "tokens": 500,
        "before": 20.0,
        "after": 20.2,
    }
    assert found.damage.kl.model_dump() == {"mean": 0.03, "p95": 0.2, "tokens": 400}
    assert found.patch is not None
    assert (found.patch.components, found.patch.of) == (3, 96)
    assert found.patch.modules == {"m0": [7, 9], "m1": [8]}
    assert found.patch.counts == {"m0": 2, "m1": 1}
    assert [step.components for step in found.search] == [2, 3, 4]
    assert [step.chosen for step in found.search] == [False, True, False]
    assert [step.within_budget for step in found.search] == [True, True, False]
    assert [step.tune_metric for step in found.search] == pytest.approx([0.5, 0.6, 0.9])
    assert [step.kl for step in found.search] == [0.02, 0.03, 0.04]
    increases = [step.perplexity_increase for step in found.search]
    assert increases == pytest.approx([0.01, 0.01, 0.1])


def test_the_frame_is_repeated() -> None:
    found = report()
    assert (found.model.id, found.model.sha256) == ("tiny", "a" * 64)
    assert found.attribution == dict(FRAME.attribution)
    assert (found.seed, found.timings, found.versions) == (7, {"search": 1.5}, {"excise": "0.1.0"})


def test_a_weak_signal_has_no_effect_and_says_why() -> None:
    found = build_report(FRAME, prepare(too_weak="signal too weak: 1 of 19"), None, None)
    assert found.verdict is Verdict.NO_EFFECT
    assert found.reason == "signal too weak: 1 of 19"
    assert (found.damage, found.patch, found.search, found.gates) == (None, None, [], [])
    (effect,) = found.behaviours
    assert effect.tune.before == effect.tune.after == pytest.approx(0.2)
    assert effect.held_out is None
    assert effect.random_control is None


def test_a_weak_signal_without_any_triggering_prompt() -> None:
    prepared = prepare(too_weak="signal too weak: 0 of 2")
    silent = tuple(entry for entry in prepared.prompts if not entry.triggering)
    found = build_report(FRAME, prepared.model_copy(update={"prompts": silent}), None, None)
    (effect,) = found.behaviours
    assert (effect.prompts, effect.triggering, effect.tune.n) == (2, 0, 0)
    assert [sample.prompt for sample in found.samples] == ["n1", "n0"]


def test_nothing_within_budget_has_no_effect_and_no_patch() -> None:
    search = SEARCH.model_copy(update={"chosen": None})
    found = build_report(FRAME, prepare(), search, None)
    assert found.verdict is Verdict.NO_EFFECT
    assert "within the budget" in found.reason
    assert (found.damage, found.patch, found.gates) == (None, None, [])
    assert len(found.search) == 3
    assert not any(step.chosen for step in found.search)


def test_without_a_correction_the_most_repetitive_prompts_are_shown_unchanged() -> None:
    samples = build_report(FRAME, prepare(), None, None).samples
    assert len(samples) == 10
    metrics = [sample.metric_before for sample in samples]
    assert metrics == sorted([*BEFORE, *TUNE_BEFORE])[:10]
    assert all(sample.before == sample.after for sample in samples)
    assert all(sample.metric_before == sample.metric_after for sample in samples)


def test_samples_show_best_and_worst_held_out_and_best_tuning() -> None:
    gains = [(index * 7 % 30 - 10) / 50 for index in range(30)]
    before = [0.3] * 30
    after = [0.3 + gain for gain in gains]
    validation = validate(after, control_metrics=(tuple(before),))
    samples = build_report(FRAME, prepare(before), SEARCH, validation).samples
    held_out = [sample for sample in samples if sample.split == "held_out"]
    tune = [sample for sample in samples if sample.split == "tune"]
    order = sorted(range(30), key=lambda index: -gains[index])
    assert [sample.prompt for sample in held_out] == [f"h{i}" for i in order[:10] + order[-6:]]
    assert [sample.prompt for sample in tune] == ["t0", "t3", "t4", "t1"]
    for sample in samples:
        assert sample.before == f"{sample.prompt} before"
        assert sample.after == f"{sample.prompt} after"
    worst = held_out[-1]
    assert worst.metric_after - worst.metric_before == pytest.approx(min(gains))


@pytest.mark.parametrize("count", [3, 10, 12, 16])
def test_few_prompts_are_all_shown_once(count: int) -> None:
    before, after = (BEFORE * 2)[:count], (AFTER * 2)[:count]
    validation = validate(after, control_metrics=(tuple(before),))
    samples = build_report(FRAME, prepare(before), SEARCH, validation).samples
    shown = [sample.prompt for sample in samples if sample.split == "held_out"]
    assert sorted(shown) == sorted(f"h{index}" for index in range(count))


def test_the_report_survives_json() -> None:
    found = report()
    assert Report.model_validate_json(found.model_dump_json()) == found
