"""Measuring the effect of pruned components on behaviours, on triggering prompts."""

from __future__ import annotations

from collections.abc import Sequence

from workers.correction.behaviour import Behaviour, Shown, respond
from workers.correction.results import PromptOutcome, Response, Responses
from workers.domain import TokenSequence
from workers.models.loaded import LoadedModel
from workers.progress import Advance


def measure_responses(
    base: LoadedModel,
    behaviour: Behaviour,
    outcomes: Sequence[PromptOutcome],
    seed: int,
    advance: Advance,
) -> Responses:
    """Return the model's responses to the prompts of `outcomes`, in its current state.

    The random draws are those with which the base model was measured.
    """
    return respond(
        base,
        behaviour,
        [outcome.prompt for outcome in outcomes],
        [outcome.prompt_ids for outcome in outcomes],
        seed=2 * seed,
        advance=advance,
    )


def mark_shown(
    base: LoadedModel, behaviour: Behaviour, outcomes: Sequence[PromptOutcome], responses: Responses
) -> Responses:
    """Return the responses, with the tokens marked that make any scorer find them undesired.

    It is enough that one scorer does, because each one's figures count.
    """
    shown = [
        Shown(outcome.prompt, outcome.prompt_ids, response)
        for outcome, samples in zip(outcomes, responses, strict=True)
        for response in samples
        if behaviour.is_shown(response)
    ]
    marked = iter(behaviour.mark(shown, base.tokenizer))
    return tuple(
        tuple(next(marked) if behaviour.is_shown(response) else response for response in samples)
        for samples in responses
    )


def build_sample(prompt_ids: tuple[int, ...], response: Response) -> TokenSequence:
    """Return a response as a sample: its marked answer is explained, after prompt and reasoning.

    In a response without an answer, everything is explained.
    """
    own = len(response.answer_ids) or len(response.token_ids)
    start = len(response.token_ids) - own
    marks = response.marks if any(response.marks) else ()
    return TokenSequence(
        prompt_ids + response.token_ids[:start],
        response.token_ids[start:],
        marks[start:],
        response.contrast_ids[start:],
    )


def collect_undesired(
    behaviour: Behaviour, outcomes: Sequence[PromptOutcome], responses: Responses
) -> tuple[TokenSequence, ...]:
    """Return the responses that show the behaviour, as marked for explanation."""
    return tuple(
        build_sample(outcome.prompt_ids, response)
        for outcome, samples in zip(outcomes, responses, strict=True)
        for response in samples
        if behaviour.is_undesired(response)
    )


def collect_base_undesired(
    behaviour: Behaviour, outcomes: Sequence[PromptOutcome]
) -> tuple[TokenSequence, ...]:
    """Return the base model's own undesired responses, as marked for explanation.

    With sampling, these are all that were drawn, including those by which prompts were chosen.
    """
    responses = tuple(outcome.responses for outcome in outcomes)
    if behaviour.decoding.temperature > 0:
        responses = tuple(outcome.drawn for outcome in outcomes)
    return collect_undesired(behaviour, outcomes, responses)


def collect_clean(
    behaviour: Behaviour, outcomes: Sequence[PromptOutcome], most: int
) -> tuple[TokenSequence, ...]:
    """Return clean responses of the base model to the same prompts, at most `most`.

    They are taken from the prompts in turn, one at a time. A greedy response is the only one to
    its prompt, so it has no clean counterpart.
    """
    if behaviour.decoding.temperature == 0:
        return ()
    rows = [
        [
            build_sample(outcome.prompt_ids, response)
            for response in outcome.drawn
            if behaviour.is_clean(response)
        ]
        for outcome in outcomes
    ]
    longest = max((len(row) for row in rows), default=0)
    in_turn = [row[turn] for turn in range(longest) for row in rows if turn < len(row)]
    return tuple(in_turn[:most])
