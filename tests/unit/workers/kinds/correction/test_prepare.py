"""What stage 1 keeps for the search beside the prompts."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.workers.correction.bench_cases import LOOP, RUDE, prepare
from tests.unit.workers.kinds.correction.correction_inputs import FakeInputs
from workers.correction.continuations import Continuation, continue_texts, cut_beginnings
from workers.correction.protection import CONTINUATIONS
from workers.correction.results import Closing, PreparedBehaviour, PromptOutcome, ReferenceSplit
from workers.kinds.correction.prepare import _protect_answers, _protect_continuations
from workers.progress import Counter, ignore

TEXTS = ReferenceSplit(
    attribute=tuple((number, *range(1, 30)) for number in range(3)),
    tune=((4, *range(1, 30)), (5, 6)),
    held_out=((7, 8),),
)


def close(outcome: PromptOutcome) -> PromptOutcome:
    """The prompt, with a phrase in its answers from their second token on."""
    responses = tuple(
        one.model_copy(update={"token_ids": (1, 2, 3), "closing": Closing(tokens=1, characters=0)})
        for one in outcome.responses
    )
    return outcome.model_copy(update={"responses": responses})


def test_what_was_said_before_closing_phrases_is_kept() -> None:
    inputs = FakeInputs((LOOP, RUDE))
    loops, rude = prepare(inputs).behaviours
    closed = PreparedBehaviour(name="rudeness", prompts=tuple(map(close, rude.prompts)))
    (answers,) = _protect_answers(inputs, [loops, closed])
    assert answers.name == "answers.rudeness"
    assert {own.response_ids for own in (*answers.learn, *answers.tune)} == {(1,)}
    assert _protect_answers(inputs, [loops, rude]) == ()


def continue_both(inputs: FakeInputs) -> tuple[tuple[Continuation, ...], ...]:
    """The base's continuations of the texts for attribution and of those for tuning."""
    return tuple(
        continue_texts(inputs.base, inputs.behaviours, cut_beginnings(texts), ignore)
        for texts in (TEXTS.attribute, TEXTS.tune)
    )


def test_other_text_is_kept_as_the_base_continues_it() -> None:
    inputs = FakeInputs((replace(LOOP, threshold=0.0), replace(RUDE, threshold=2.0)))
    learn, tune = continue_both(inputs)
    assert all(own.is_clean for own in (*learn, *tune))
    (found,) = _protect_continuations(inputs, TEXTS, tune, Counter(ignore, []))
    assert found.name == CONTINUATIONS
    for texts, samples, continued in (
        (TEXTS.attribute, found.learn, learn),
        (TEXTS.tune, found.tune, tune),
    ):
        assert tuple(own.prompt_ids for own in samples) == cut_beginnings(texts)
        assert [own.response_ids for own in samples] == [
            own.response.token_ids for own in continued
        ]


def test_what_shows_a_behaviour_is_not_kept() -> None:
    inputs = FakeInputs((replace(LOOP, threshold=2.0),))
    _, tune = continue_both(inputs)
    assert not any(own.is_clean for own in tune)
    assert _protect_continuations(inputs, TEXTS, tune, Counter(ignore, [])) == ()
