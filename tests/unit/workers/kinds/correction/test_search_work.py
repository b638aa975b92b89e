"""What a search announces of its work, step by step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from excise.names import Granularity
from tests.unit.workers.correction.bench_cases import (
    LOOP,
    NEURON,
    RUDE,
    inputs_of,
    plan_of,
    prepare,
)
from tests.unit.workers.kinds.correction.correction_inputs import FakeInputs, build_slice
from workers.correction.candidates import REFERENCE_ROWS
from workers.correction.protection import CONTINUATIONS
from workers.correction.results import TrialSettings
from workers.kinds.correction.search_work import UNLIMITED, SearchWork
from workers.progress import Part

HEAD = Granularity.HEAD


def work_of(*kinds: Granularity, **changes: Any) -> SearchWork:
    inputs = FakeInputs((LOOP, RUDE))
    relevance: Any = dict.fromkeys(kinds)
    given = inputs_of(inputs, prepare(inputs, protection=[build_slice()]), relevance)
    return SearchWork(given, plan_of(*kinds, **changes))


def list_steps(parts: list[Part]) -> list[str]:
    return list(dict.fromkeys(part.step for part in parts))


def test_a_pool_is_weighed_before_the_rounds() -> None:
    parts = list(work_of(NEURON, rounds=2).list_parts())
    assert list_steps(parts) == [
        "weighing neurons",
        "weighing neurons again, half-way to a first choice",
        "round 1 of at most 2",
        "round 2 of at most 2",
    ]
    rows, protected = parts[:2]
    assert (rows.noun, rows.units) == ("rows", REFERENCE_ROWS)
    assert (protected.noun, protected.units) == ("protected texts", len(build_slice().learn))


def test_the_ends_of_continuations_are_read_before_the_first_trial_is_gone_half_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = FakeInputs((LOOP, RUDE))
    continued = build_slice(CONTINUATIONS, learn=3)
    prepared = prepare(inputs, protection=[continued])
    monkeypatch.setattr(type(inputs.base.tokenizer), "eos_token_id", 2, raising=False)
    relevance: Any = dict.fromkeys([NEURON])
    work = SearchWork(inputs_of(inputs, prepared, relevance), plan_of(NEURON))
    read = [part for part in work.list_parts() if part.noun == "protected texts"]
    assert [part.units for part in read] == [3, 3, 3, 3]
    whole, leads, rows, half_way = (sum(part.costs) for part in read)
    assert leads < rows == whole == half_way


def test_a_round_answers_reads_and_explains() -> None:
    parts = list(work_of(NEURON, rounds=2).list_parts())
    first = [part.noun for part in parts if part.step == "round 1 of at most 2"]
    own = ["texts", "texts", "probes"]
    trial = ["responses", "responses", *own]
    assert first == [*own, *trial, "explained responses", "explained responses"]
    assert [part.noun for part in parts if part.step == "round 2 of at most 2"] == trial


def test_several_granularities_are_told_apart() -> None:
    work = work_of(NEURON, HEAD, rounds=1, refinements=2, max_rank=4)
    assert list_steps(list(work.list_parts())) == [
        "weighing neurons",
        "weighing neurons again, half-way to a first choice",
        "round 1 of at most 1, neurons",
        "weighing heads",
        "weighing heads again, half-way to a first choice",
        "round 1 of at most 1, heads",
        "refinement 1 of at most 2",
        "refinement 2 of at most 2",
        UNLIMITED,
    ]


@pytest.mark.parametrize(
    ("origin", "step"),
    [
        ("round 1", "round 1 of at most 3, heads"),
        ("refinement 2", "refinement 2 of at most 2"),
        ("round 3, any rank", UNLIMITED),
        ("refinement 1, any rank", UNLIMITED),
    ],
)
def test_every_trial_has_an_announced_step(origin: str, step: str) -> None:
    work = work_of(NEURON, HEAD, rounds=3, refinements=2, max_rank=4)
    settings = TrialSettings(origin=origin, granularity=HEAD, amount=3)
    assert work.name_trial(settings) == step
    assert step in list_steps(list(work.list_parts()))
    assert work.name_pool(HEAD) in list_steps(list(work.list_parts()))


def test_what_is_ranked_one_by_one_has_no_pool() -> None:
    inputs = FakeInputs((LOOP,))
    relevance: Any = {NEURON: None}
    given = replace(inputs_of(inputs, prepare(inputs), relevance), score="benefit")  # type: ignore[arg-type]
    work = SearchWork(given, plan_of(NEURON))
    assert list_steps(list(work.list_parts())) == ["round 1 of at most 1"]
