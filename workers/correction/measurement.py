"""What a set of pruned components does to a behaviour and to reference text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workers.correction.results import PromptOutcome, Response
from workers.domain import Selection
from workers.progress import Advance
from workers.pruning.components import pruned
from workers.validation.generation import generate_responses
from workers.validation.uniqueness import compute_response_uniqueness


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
            metric=compute_response_uniqueness(sequence.response_ids),
        )
        for sequence in sequences
    )
