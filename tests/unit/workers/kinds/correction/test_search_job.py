"""What a job's search stores, and what it tells of itself."""

from __future__ import annotations

from functools import partial

import pytest

from tests.unit.workers.correction.bench_cases import (
    FIRST,
    LOOP,
    NEURON,
    RUDE,
    SECOND,
    SETTINGS,
    candidates_of,
    inputs_of,
    plan_of,
    prepare,
)
from tests.unit.workers.correction.cases import build_trial
from tests.unit.workers.kinds.correction.correction_inputs import (
    FakeContext,
    FakeInputs,
    build_slice,
)
from workers.correction.bench import TuningBench
from workers.correction.candidates import PoolSize
from workers.correction.results import PreparedCorrection, TrialSettings
from workers.kinds.correction.attribute import answer_undesired
from workers.kinds.correction.search_job import SearchReporter, StoredBench
from workers.kinds.correction.search_work import SearchWork
from workers.progress import Counter
from workers.running.context import CancelledJobError


@pytest.fixture
def inputs() -> FakeInputs:
    """A model with two behaviours."""
    return FakeInputs((LOOP, RUDE))


def bench_of(
    inputs: FakeInputs, prepared: PreparedCorrection, context: FakeContext, upstream: str = "sha"
) -> StoredBench:
    given = inputs_of(inputs, prepared)
    work = SearchWork(given, plan_of(NEURON))
    counter = Counter(lambda standing: context.check_cancelled(), work.list_parts())
    answer = partial(answer_undesired, inputs, advance=counter)  # type: ignore[arg-type]
    bench = TuningBench(given, candidates_of(given), answer, counter)
    return StoredBench(context, bench, upstream, counter, work)  # type: ignore[arg-type]


def report_to(context: FakeContext) -> SearchReporter:
    return SearchReporter(context, ["loop", "rudeness"])  # type: ignore[arg-type]


def test_what_was_measured_is_remembered_by_all_it_depends_on(
    inputs: FakeInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("the model ran again")

    prepared, context = prepare(inputs), FakeContext()
    found = bench_of(inputs, prepared, context).measure(FIRST, SETTINGS)
    monkeypatch.setattr(inputs.model, "forward", refuse)
    later = TrialSettings(origin="refinement 2", granularity=NEURON, amount=99, cost_weight=0.5)
    assert bench_of(inputs, prepared, context).measure(FIRST, later) == found
    others = [
        (SECOND, SETTINGS, "sha"),
        (FIRST, SETTINGS.model_copy(update={"ablation": "mean"}), "sha"),
        (FIRST, SETTINGS, "another"),
    ]
    for selection, settings, upstream in others:
        with pytest.raises(AssertionError, match="ran again"):
            bench_of(inputs, prepared, context, upstream).measure(selection, settings)


def test_what_was_measured_of_slices_is_remembered(inputs: FakeInputs) -> None:
    prepared, context = prepare(inputs, protection=[build_slice()]), FakeContext()
    found = bench_of(inputs, prepared, context).measure(SECOND, SETTINGS)
    assert found.slices["words"].nats_rise != 0
    assert bench_of(inputs, prepared, context).measure(SECOND, SETTINGS).slices == found.slices


def test_a_cancelled_measurement_is_not_stored(inputs: FakeInputs) -> None:
    context = FakeContext(looks_left=4)
    with pytest.raises(CancelledJobError):
        bench_of(inputs, prepare(inputs), context).measure(FIRST, SETTINGS)
    assert context.memory == {}


def test_a_pool_is_an_event() -> None:
    context = FakeContext()
    report_to(context).report_pool(PoolSize(NEURON, components=15, rows=7, slices=2))
    ((kind, message, data),) = context.events
    assert kind == "search.pool"
    assert message == (
        "15 neurons to choose from, weighed together by 7 pieces of reference text and "
        "2 protected slices."
    )
    assert data == {"components": 15, "rows": 7, "slices": 2}


def test_every_trial_is_an_event() -> None:
    context = FakeContext()
    reporter = report_to(context)
    reporter.report_trial(build_trial((0.5, -0.25), kl=0.0123, perplexity=10.1))
    lost = build_trial((0.5, 0.5), within=False, bound_by="words", use=1.2, last_layer=3)
    reporter.report_trial(lost)
    reporter.report_trial(lost)  # remembered, after a restart
    (kind, message, data), (_, over, later) = context.events
    assert kind == "search.trial"
    assert message == (
        "round 1, 1 neuron: loop -50%, rudeness +25%, perplexity +1.00%, KL 0.0123, "
        "kl at 50% of what the search allows"
    )
    assert over.endswith(", over budget: words at 120% of what the search allows")
    assert (later["last_layer"], later["within_budget"]) == (3, False)
    assert data == {
        "origin": "round 1",
        "granularity": "neuron",
        "amount": 1,
        "cost_weight": 1.0,
        "first_layer": 0,
        "last_layer": None,
        "ablation": "zero",
        "prices": {},
        "emphasis": [],
        "components": 1,
        "gains": {"loop": 0.5, "rudeness": -0.25},
        "perplexity_increase": pytest.approx(0.01),
        "kl": 0.0123,
        "bound_by": "kl",
        "use": 0.5,
        "within_budget": True,
    }
