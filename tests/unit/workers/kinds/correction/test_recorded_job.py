"""What a recorded job was told of its remaining time, replayed on a clock of the test's own.

`data/demo_job.json` holds how long the texts of the demo's job were, and when its log said how far
it was. The stages' own code counts the work; between two lines of the log it is taken to go on
evenly by its cost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from excise.names import Attributor, GatedSet, Granularity, Score
from excise.specs import CorrectionSpec
from tests.unit.workers.correction.bench_cases import inputs_of, plan_of
from tests.unit.workers.correction.cases import (
    build_behaviour,
    build_outcome,
    respond_with,
)
from tests.unit.workers.kinds.correction.correction_inputs import (
    FakeInputs,
    build_prepared,
    build_spec,
)
from workers.abilities.encoding import EncodedProbe
from workers.attribution.attribution import Attribution
from workers.attribution.segments import Reading
from workers.attribution.targets import Target
from workers.correction.behaviour import Behaviour, Marking
from workers.correction.preparation import PreparationWork
from workers.correction.results import (
    PreparedBehaviour,
    PreparedCorrection,
    ProtectedSample,
    ProtectedSlice,
    SliceDamage,
    TrialSettings,
)
from workers.domain import TokenSequence
from workers.kinds.correction import validate
from workers.kinds.correction.search_work import SearchWork
from workers.kinds.correction.weights import WeightPlan
from workers.measuring.measurement import CheckPlan, PromptSet, count_probes
from workers.models.generation import Decoding
from workers.progress import Counter, Part, Standing
from workers.running.estimate import Spent, estimate_job_seconds

JOB: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "demo_job.json").read_text())
SECONDS: dict[str, float] = JOB["seconds"]
MARKS: dict[str, Any] = JOB["marks"]

FIRST_TENTH = 0.1
FACTOR = 2.0
SLACK_SECONDS = 2.0
"""What the times of the log are good to: it rounds the start of a stage, and the present."""

WEIGHT = Granularity.WEIGHT
EXPLAINED = "explained responses"
UNITS_VALIDATED = 2220
"""Texts, responses and probes, as the log counted them."""

CONTROL_PROBES = 8
"""Probes per slice on which that job measured a random selection."""

STEPS_A_SECOND = 2
"""How often the stage comes further in the replay."""


@dataclass
class Replay:
    """A stage done again: the time, and what was said."""

    now: float = 0.0
    told: list[tuple[float, Standing]] = field(default_factory=list)

    def start(self, parts: Sequence[Part]) -> Counter:
        """A counter on this clock."""
        return Counter(
            lambda standing: self.told.append((self.now, standing)), parts, lambda: self.now
        )

    def work(self, counter: Counter, parts: Sequence[Part], units: float, until: float) -> None:
        """Spend the time until `until` on the next `units`, which `parts` are those of."""
        steps = max(1, round((until - self.now) * STEPS_A_SECOND))
        start, whole = self.now, sum(part.units for part in parts)
        assert units <= whole + 1e-6
        for share in cut_evenly(parts, units, steps):
            self.now += (until - start) / steps
            counter(share)


def cut_evenly(parts: Sequence[Part], units: float, steps: int) -> Iterator[float]:
    """Yield the units of so many steps of equal cost, of the first `units` of some parts."""
    costs = [cost for part in parts for cost in part.costs][: round(units)]
    each, spent, taken = sum(costs) / steps, 0.0, 0.0
    place = 0
    for step in range(1, steps + 1):
        begun = taken
        while place < len(costs) and spent + costs[place] <= each * step + 1e-6:
            spent += costs[place]
            place += 1
        taken = float(place)
        if place < len(costs):
            taken += (each * step - spent) / costs[place]
        yield taken - begun


def drop(parts: Sequence[Part], units: int) -> list[Part]:
    """The parts without their first units."""
    left = []
    for part in parts:
        gone = min(units, part.units)
        units -= gone
        left.append(Part(part.noun, part.costs[gone:], part.step))
    return left


def text(length: int) -> TokenSequence:
    return TokenSequence((1,) * length)


def ids(length: int) -> tuple[int, ...]:
    return (1,) * length


def behaviour() -> Behaviour:
    return build_behaviour(
        name="repetition", decoding=Decoding(JOB["new_tokens"]), marking=Marking.REPEATED
    )


def prepared() -> PreparedCorrection:
    """What the recorded job had prepared, in lengths."""
    new = JOB["new_tokens"]
    outcomes = [
        build_outcome("t", [respond_with(1.0, ids=ids(new))], prompt_ids=ids(length))
        for length in JOB["tuning"]
    ]
    outcomes += [
        build_outcome("h", held_out=True, prompt_ids=ids(length)) for length in JOB["held_out"]
    ]

    def store(length: int) -> ProtectedSample:
        count = length - 1
        return ProtectedSample(
            prompt_ids=(1,), response_ids=ids(count), spans=(count,), marks=(True,) * count
        )

    own = ProtectedSlice(
        name="all",
        limit=SliceDamage(nats_rise=0.1, accuracy_fall=0.1),
        learn=tuple(map(store, JOB["learned"])),
        tune=tuple(map(store, JOB["tuned"])),
    )
    found = build_prepared(
        PreparedBehaviour(name="repetition", prompts=tuple(outcomes)), protection=[own]
    )
    split = {name: tuple(map(ids, lengths)) for name, lengths in JOB["reference"].items()}
    return found.model_copy(
        update={
            "reference": found.reference.model_copy(update=split),
            "corpus_tune": tuple(map(ids, JOB["corpus_tune"])),
        }
    )


def replay_prepare() -> Replay:
    """First answers, then second ones to the prompts that brought the behaviour out."""
    replay = Replay()
    work = PreparationWork(behaviour(), tuple(JOB["prompts"]))
    parts = work.list_parts()
    counter = replay.start(parts)
    replay.work(counter, parts, len(JOB["prompts"]), MARKS["prepare"][0][0])
    chosen = range(len(JOB["tuning"]) + len(JOB["held_out"]))
    second = work.answer_anew(chosen)
    counter.expect(second)
    replay.work(counter, [second], second.units, SECONDS["prepare"])
    return replay


def replay_attribute() -> Replay:
    """General text for two questions, protected text for one, undesired responses."""
    asked = tuple(
        Attribution(attributor, WEIGHT, Target.EMITTED_LOG_PROBABILITY)
        for attributor in (
            Attributor.GRADIENT_X_INPUT,
            Attributor.GRADIENT_X_INPUT,
            Attributor.ATTNLRP,
        )
    )
    samples = (JOB["reference"]["attribute"], JOB["learned_once"], JOB["undesired"])
    readings = tuple(
        Reading([text(length) for length in lengths], own)
        for lengths, own in zip(samples, ((0, 1), (0,), (2,)), strict=True)
    )
    plan = WeightPlan((), asked, readings, JOB["segments"], Score.BENEFIT_DAMAGE, 1)
    replay, parts = Replay(), list(plan.list_parts(JOB["layers"]))
    assert sum(part.units for part in parts) == MARKS["attribute"][-1][1]  # as the job counted
    follow(replay, replay.start(parts), parts, [*MARKS["attribute"]], SECONDS["attribute"])
    return replay


def follow(
    replay: Replay, counter: Counter, parts: Sequence[Part], marks: list[Any], end: float
) -> None:
    """Do all of the parts as the log's lines said; what is left after the last until the end."""
    whole = sum(part.units for part in parts)
    for (_, before), (until, units) in pairwise([(0, 0), *marks, (end, whole)]):
        if units > before:
            replay.work(counter, drop(parts, before), units - before, until)
    replay.now = end


def replay_search() -> Replay:
    """The pool, then seven rounds; the eighth was not needed."""
    inputs = FakeInputs((behaviour(),), build_spec(), granularities=(WEIGHT,))
    relevance: Any = {WEIGHT: None}
    work = SearchWork(
        inputs_of(inputs, prepared(), relevance), plan_of(WEIGHT, rounds=JOB["rounds"])
    )
    parts = list(work.list_parts())
    replay = Replay()
    counter = replay.start(parts)
    pool, *ends = MARKS["search"]
    # The recorded job read protected texts once; today they are read again half-way.
    rows, texts, again = (part for part in parts if part.step.startswith(work.name_pool(WEIGHT)))
    drawn = Part(rows.noun, rows.costs[: JOB["rows"]], rows.step)
    share = sum(drawn.costs) / sum([*drawn.costs, *texts.costs, *again.costs])
    replay.work(counter, [drawn], drawn.units, pool * share)
    counter(rows.units - drawn.units)
    replay.work(counter, [texts, again], texts.units + again.units, pool)
    explained: list[Part] = []
    for number, end in enumerate(ends, start=1):
        settings = TrialSettings(origin=f"round {number}", granularity=WEIGHT, amount=1)
        step = work.name_trial(settings)
        own = [part for part in parts if part.step == step]
        trial = [part for part in own if part.noun != EXPLAINED]
        before = sum(cost for part in explained for cost in part.costs)
        share = before / (before + sum(cost for part in trial for cost in part.costs))
        until = replay.now + (end - replay.now) * share
        replay.work(counter, explained, sum(part.units for part in explained), until)
        counter.begin(step)
        replay.work(counter, trial, sum(part.units for part in trial), end)
        found = JOB["explained"][number - 1]
        explained = [Part(EXPLAINED, part.costs[:found], step) for part in own[len(trial) :]]
    replay.now = SECONDS["search"]
    return replay


def replay_validate() -> Replay:
    """Base, correction, a second look at one ability, three random selections."""
    probes = {
        name: tuple(EncodedProbe(text(length), ()) for length in lengths)
        for name, lengths in JOB["probes"].items()
    }
    beginnings = tuple("x" * count for count in JOB["beginnings"])
    plan = CheckPlan(
        corpus=tuple(map(ids, JOB["corpus"])),
        reference=tuple(map(ids, JOB["reference"]["held_out"])),
        prompt_sets={GatedSet.REFERENCE: PromptSet(beginnings, Decoding(40), chat=False)},
        abilities=probes,
    )
    inputs: Any = FakeInputs((behaviour(),))
    settings = TrialSettings(origin="round 5", granularity=WEIGHT, amount=1)
    bench = validate._HeldOutBench(inputs, prepared(), settings)
    compared = {name: own[:CONTROL_PROBES] for name, own in probes.items()}
    parts = validate.list_parts(plan, compared, bench.list_parts(0))
    again = tuple(EncodedProbe(text(length), ()) for length in JOB["probes_again"])
    more = [count_probes({"refrains": again}, step) for step in validate._AGAIN]
    first = [part for part in parts if part.step in (validate._BASE, validate._CORRECTED)]
    known = sum(part.units for part in first)
    everything = [*first, *more, *parts[len(first) :]]
    marks: list[Any] = MARKS["validate"]
    assert sum(part.units for part in everything) == UNITS_VALIDATED  # as the job counted
    replay = Replay()
    counter = replay.start(parts)
    before = [mark for mark in marks if mark[1] <= known]
    follow(replay, counter, first, before, interpolate(marks, known))
    for part in reversed(more):
        counter.expect(part)
    rest = [[until, units - known] for until, units in marks if units > known]
    offset = replay.now
    for (_, done), (until, units) in pairwise(
        [(offset, 0), *rest, (SECONDS["validate"], 2220 - known)]
    ):
        replay.work(counter, drop(everything, known + done), units - done, until)
    return replay


def interpolate(marks: list[Any], units: int) -> float:
    """When so many units were done, between two lines of the log."""
    for (early, before), (late, after) in pairwise(marks):
        if before <= units <= after:
            return float(early + (late - early) * (units - before) / (after - before))
    raise AssertionError(units)


REPLAYS = {
    "prepare": replay_prepare,
    "attribute": replay_attribute,
    "search": replay_search,
    "validate": replay_validate,
}


def list_misses(replay: Replay, end: float) -> list[str]:
    """What was said after the first tenth that is off by more than the factor and the slack."""
    misses = []
    for now, standing in replay.told:
        if standing.done < FIRST_TENTH * standing.total:
            continue
        found, left = standing.remaining_seconds, end - now
        assert found is not None
        if not left / FACTOR - SLACK_SECONDS <= found <= left * FACTOR + SLACK_SECONDS:
            misses.append(f"{now:.0f} s, {standing.message}: {found:.0f} s, {left:.0f} were left")
    return misses


@pytest.mark.parametrize("stage", ["prepare", "attribute", "validate"])
def test_the_remaining_time_is_right_within_a_factor_of_two(stage: str) -> None:
    replay = REPLAYS[stage]()
    assert replay.now == pytest.approx(SECONDS[stage], abs=1)
    assert list_misses(replay, SECONDS[stage]) == []


def test_that_of_the_search_is_what_it_takes_at_most() -> None:
    """The eighth round was not needed, so the search would have gone on as long as one takes."""
    replay = replay_search()
    ends = MARKS["search"]
    last_round = ends[-1] - ends[-2]
    assert list_misses(replay, SECONDS["search"] + last_round) == []


def test_the_job_s_remaining_time_is_right_from_its_first_tenth_on() -> None:
    """Stages as they came, those to come by their usual shares."""
    finished: dict[str, float] = {}
    begun, whole = 0.0, sum(SECONDS.values())
    for stage, replay in REPLAYS.items():
        for now, standing in replay().told:
            if begun + now < FIRST_TENTH * whole or standing.remaining_seconds is None:
                continue
            spent = Spent(finished, stage, now, standing.remaining_seconds)
            found, left = estimate_job_seconds(CorrectionSpec.stages, spent), whole - begun - now
            assert left / FACTOR - SLACK_SECONDS <= found, (stage, now)
            assert found <= left * FACTOR + SLACK_SECONDS, (stage, now)
        finished |= {stage: SECONDS[stage]}
        begun += SECONDS[stage]


@pytest.mark.parametrize("stage", REPLAYS)
def test_every_stage_is_told_in_units_from_its_first_tenth_on(stage: str) -> None:
    told = REPLAYS[stage]().told
    assert told[0][1].total > 0
    assert all(" of " in standing.message for _, standing in told)
    told_by = [now for now, standing in told if standing.remaining_seconds is not None]
    assert told_by[0] <= FIRST_TENTH * SECONDS[stage]
