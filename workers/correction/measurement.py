"""What a set of pruned components does to a behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workers.correction.results import PromptOutcome, Response
from workers.domain import Selection, TokenSequence
from workers.progress import Advance
from workers.pruning.components import pruned
from workers.validation.generation import generate_responses
from workers.validation.uniqueness import compute_response_uniqueness, mark_undesired


def measure_responses(
    model: Any,
    tokenizer: Any,
    pad_id: int,
    selection: Selection,
    outcomes: Sequence[PromptOutcome],
    max_new_tokens: int,
    advance: Advance,
) -> tuple[Response, ...]:
    """Return the greedy responses to `outcomes`' prompts with `selection` pruned."""
    with pruned(model, selection):
        sequences = generate_responses(
            model,
            [outcome.prompt_ids for outcome in outcomes],
            max_new_tokens,
            pad_id,
            on_batch=advance,
        )
    return tuple(
        Response(
            response=tokenizer.decode(sequence.response_ids),
            response_ids=sequence.response_ids,
            metric=compute_response_uniqueness(sequence.response_ids),
        )
        for sequence in sequences
    )


def collect_undesired(
    outcomes: Sequence[PromptOutcome], responses: Sequence[Response], threshold: float
) -> tuple[TokenSequence, ...]:
    """Return the responses that show the behaviour still, marked for explanation."""
    return tuple(
        mark_undesired(outcome.prompt_ids, response.response_ids)
        for outcome, response in zip(outcomes, responses, strict=True)
        if response.response_ids and response.metric <= threshold
    )
