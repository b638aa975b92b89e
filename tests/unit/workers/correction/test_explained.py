"""What attribution explains of a behaviour: tokens by their probability, or what was emitted."""

from __future__ import annotations

import pytest
from transformers import LlamaForCausalLM

from excise.names import Attributor
from tests.unit.workers.correction.cases import (
    GREEDY,
    FunctionScorer,
    base_of,
    build_behaviour,
    build_outcome,
    respond_with,
)
from workers.attribution.targets import TokenMass
from workers.correction import explained
from workers.correction.behaviour import Marking
from workers.correction.explained import choose_explained, collect_explained
from workers.correction.results import (
    ExplainedResponses,
    PreparedBehaviour,
    PromptOutcome,
    Response,
)
from workers.domain import TokenSequence

RUDE = build_behaviour(FunctionScorer())
BAD = respond_with(0.9, ids=(1, 2)).model_copy(update={"marks": (False, True)})
CLEAN = respond_with(0.1, ids=(3, 4, 5))
PROMPTS = (
    build_outcome("t", [BAD, CLEAN], screened=[BAD], prompt_ids=(7,)),
    build_outcome("quiet", screened=[CLEAN], triggering=False, prompt_ids=(8,)),
    build_outcome(
        "h", [respond_with(0.9, ids=(2, 2))], screened=[BAD], held_out=True, prompt_ids=(9,)
    ),
)
OWN = ExplainedResponses(token_ids=(2,), weights=(0.5,), samples=(((7,), (1, 2)), ((8,), (3,))))


def prepared(own: ExplainedResponses | None) -> PreparedBehaviour:
    return PreparedBehaviour(name="rudeness", prompts=PROMPTS, explained=own)


@pytest.mark.parametrize("attributor", list(Attributor))
def test_only_what_explains_explains_by_the_tokens_mass(attributor: Attributor) -> None:
    found = collect_explained(RUDE, prepared(OWN), attributor)
    if attributor.explains:
        assert found.mass == TokenMass((2,), (0.5,))
        assert found.undesired == (TokenSequence((7,), (1, 2)), TokenSequence((8,), (3,)))
        assert found.clean == ()
        return
    assert found.mass is None
    assert found.undesired == (TokenSequence((7,), (1, 2), (False, True)),) * 2
    assert found.clean == ((TokenSequence((7,), (3, 4, 5)),) if attributor.reads_samples else ())


def test_without_telling_tokens_undesired_responses_are_set_against_clean_ones() -> None:
    found = collect_explained(RUDE, prepared(None), Attributor.ATTNLRP)
    assert found.mass is None
    assert len(found.undesired) == 2
    assert found.clean == (TokenSequence((7,), (3, 4, 5)),)
    greedy = build_behaviour(FunctionScorer(), decoding=GREEDY)
    found = collect_explained(greedy, prepared(None), Attributor.ATTNLRP)
    assert (len(found.undesired), found.clean) == (1, ())


def samples_of(found: ExplainedResponses | None) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    assert found is not None
    return list(found.samples)


def test_tokens_are_learnt_and_responses_chosen_from_the_tuning_split(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = choose_explained(base_of(model), RUDE, PROMPTS)
    assert found is not None
    # Token 2 came twice, marked both times: what held-out prompts got does not count.
    assert (found.token_ids, found.weights) == ((2,), (1.0,))
    assert samples_of(found) == [
        ((7,), (1, 2)),
        ((7,), (1, 2)),
        ((7,), (3, 4, 5)),  # clean, too, but none of prompts that did not trigger
    ]
    monkeypatch.setattr(explained, "MOST_EXPLAINED", 2)
    assert len(samples_of(choose_explained(base_of(model), RUDE, PROMPTS))) == 2


def drop_marks(outcome: PromptOutcome) -> PromptOutcome:
    def plain(responses: tuple[Response, ...]) -> tuple[Response, ...]:
        return tuple(one.model_copy(update={"marks": ()}) for one in responses)

    update = {"screened": plain(outcome.screened), "responses": plain(outcome.responses)}
    return outcome.model_copy(update=update)


def test_repetition_and_responses_without_telling_tokens_have_none(
    model: LlamaForCausalLM,
) -> None:
    repetition = build_behaviour(FunctionScorer(), marking=Marking.REPEATED)
    assert choose_explained(base_of(model), repetition, PROMPTS) is None
    unmarked = tuple(map(drop_marks, PROMPTS))
    assert choose_explained(base_of(model), RUDE, unmarked) is None
