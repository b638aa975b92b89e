"""Responses of a changed model, and which of them attribution is to explain."""

from __future__ import annotations

import pytest
from transformers import LlamaForCausalLM

from tests.tiny import MODULES, select_neurons
from tests.unit.workers.correction.cases import (
    GREEDY,
    HIGHER,
    SAMPLED,
    FunctionScorer,
    base_of,
    build_behaviour,
    build_outcome,
    respond_with,
)
from workers.correction.behaviour import Marking, respond
from workers.correction.measurement import (
    collect_base_undesired,
    collect_clean,
    collect_undesired,
    mark_shown,
    measure_responses,
)
from workers.correction.preparation import prepare_behaviour
from workers.correction.results import PromptOutcome, Response
from workers.domain import TokenSequence
from workers.progress import Counter, ignore, pass_over
from workers.pruning.components import pruned

PROMPTS = [f"w{index} w{3 * index}" for index in range(1, 7)]
PROMPT_IDS = [(index, 3 * index) for index in range(1, 7)]
CHOSEN = select_neurons({MODULES[0]: list(range(20))})
ALWAYS = FunctionScorer(lambda answer: 1.0)


def unmarked(responses: tuple[Response, ...]) -> list[Response]:
    return [response.model_copy(update={"marks": ()}) for response in responses]


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED])
def test_an_unchanged_model_repeats_the_responses_it_was_measured_by(
    model: LlamaForCausalLM, decoding
) -> None:
    behaviour = build_behaviour(ALWAYS, decoding=decoding)
    prepared = prepare_behaviour(
        base_of(model), behaviour, PROMPTS, PROMPT_IDS, 4, Counter(pass_over, ())
    )
    counts: list[int] = []
    found = measure_responses(base_of(model), behaviour, prepared.prompts, 4, counts.append)
    assert list(map(list, found)) == [unmarked(entry.responses) for entry in prepared.prompts]
    assert sum(counts) == len(PROMPTS) * decoding.samples
    if decoding is SAMPLED:
        other = measure_responses(base_of(model), behaviour, prepared.prompts, 5, ignore)
        assert other != found


def test_the_responses_are_those_of_the_model_as_it_is_now(model: LlamaForCausalLM) -> None:
    behaviour = build_behaviour(ALWAYS)
    outcomes = [build_outcome(*row, prompt_ids=ids) for row, ids in zip_prompts()]
    before = measure_responses(base_of(model), behaviour, outcomes, 0, ignore)
    with pruned(model, CHOSEN):
        found = measure_responses(base_of(model), behaviour, outcomes, 0, ignore)
        again = respond(base_of(model), behaviour, PROMPTS, PROMPT_IDS, seed=0, advance=ignore)
    assert found == again
    assert found != before


def zip_prompts() -> list[tuple[tuple[str], tuple[int, ...]]]:
    return [((prompt,), ids) for prompt, ids in zip(PROMPTS, PROMPT_IDS, strict=True)]


BAD, GOOD, EMPTY = (
    respond_with(0.1, ids=(1, 2, 1, 2)),
    respond_with(0.9, ids=(1, 1, 1)),
    respond_with(0.0, ids=()),
)
REPETITION = build_behaviour(FunctionScorer(direction=HIGHER), marking=Marking.REPEATED)


def outcomes_of(*rows: tuple[Response, ...]) -> list[PromptOutcome]:
    return [build_outcome("", row, prompt_ids=(7 + place,)) for place, row in enumerate(rows)]


def test_undesired_responses_alone_are_marked(model: LlamaForCausalLM) -> None:
    rows = ((BAD, GOOD), (EMPTY, BAD))
    marked = mark_shown(base_of(model), REPETITION, outcomes_of((), ()), rows)
    marks = (False, False, False, True)
    assert [[response.marks for response in samples] for samples in marked] == [
        [marks, ()],
        [(), marks],
    ]
    assert [unmarked(samples) for samples in marked] == [list(samples) for samples in rows]


def test_marks_depend_on_the_prompt(model: LlamaForCausalLM) -> None:
    ((found,),) = mark_shown(
        base_of(model), REPETITION, [build_outcome("", prompt_ids=(2, 1, 2))], ((BAD,),)
    )
    assert found.marks == (True, True, True, True)


def test_what_is_undesired_is_collected_as_marked() -> None:
    marked = BAD.model_copy(update={"marks": (False, False, False, True)})
    nothing_marked = BAD.model_copy(update={"marks": (False,) * 4})
    rows = ((marked, GOOD), (EMPTY, BAD), (GOOD, nothing_marked))
    assert collect_undesired(REPETITION, outcomes_of((), (), ()), rows) == (
        TokenSequence((7,), (1, 2, 1, 2), (False, False, False, True)),
        TokenSequence((8,), (1, 2, 1, 2)),
        TokenSequence((9,), (1, 2, 1, 2)),  # where no token is marked all are explained
    )


def ids_of(sequences: tuple[TokenSequence, ...]) -> list[tuple[int, ...]]:
    return [sequence.response_ids for sequence in sequences]


def numbered(*scores: float, start: int) -> tuple[Response, ...]:
    return tuple(respond_with(score, ids=(start + place,)) for place, score in enumerate(scores))


def test_of_sampled_responses_those_that_chose_the_prompts_count_too() -> None:
    behaviour = build_behaviour()
    outcomes = [
        build_outcome("", numbered(0.9, 0.1, start=20), screened=numbered(0.1, 0.8, start=10)),
        build_outcome("", numbered(0.6, start=40), screened=numbered(0.7, start=30)),
    ]
    assert ids_of(collect_base_undesired(behaviour, outcomes)) == [(11,), (20,), (30,), (40,)]


def test_of_greedy_responses_the_disturbed_model_s_are_not_the_base_s() -> None:
    behaviour = build_behaviour(decoding=GREEDY)
    outcomes = [build_outcome("", numbered(0.9, start=20), screened=numbered(0.8, start=10))]
    assert ids_of(collect_base_undesired(behaviour, outcomes)) == [(20,)]


def test_clean_responses_are_taken_from_each_prompt_in_turn() -> None:
    behaviour = build_behaviour(FunctionScorer(), FunctionScorer(), agreeing=2)

    def pair(number: int, *scores: float) -> Response:
        return respond_with(*scores, ids=(number,))

    outcomes = [
        build_outcome(
            "",
            [pair(3, 0.1, 0.2), pair(4, 0.0, 0.0)],
            screened=[pair(1, 0.9, 0.9), pair(2, 0.1, 0.1)],
        ),
        build_outcome("", [pair(6, 0.1, 0.9)], screened=[pair(5, 0.9, 0.1)]),  # none is clean
        build_outcome("", [pair(8, 0.4, 0.4)], screened=[pair(7, 0.3, 0.3)], prompt_ids=(9,)),
        build_outcome("", [respond_with(0.0, 0.0, ids=())]),
    ]
    found = collect_clean(behaviour, outcomes, 10)
    assert ids_of(found) == [(2,), (7,), (3,), (8,), (4,)]
    assert found[1] == TokenSequence((9,), (7,))
    assert collect_clean(behaviour, outcomes, 3) == found[:3]
    assert collect_clean(behaviour, outcomes, 0) == ()
    assert collect_clean(behaviour, [], 3) == ()


def test_a_greedy_response_has_no_clean_counterpart() -> None:
    behaviour = build_behaviour(decoding=GREEDY)
    outcomes = [build_outcome("", numbered(0.0, start=20), screened=numbered(0.0, start=10))]
    assert collect_clean(behaviour, outcomes, 5) == ()
