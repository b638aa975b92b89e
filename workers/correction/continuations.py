"""The model's continuations of reference text, which a correction must not cut short or upset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

from workers.correction.behaviour import Behaviour
from workers.correction.results import Response, TokenIds
from workers.models.generation import generate_responses
from workers.models.loaded import LoadedModel
from workers.progress import Advance, Part, answer_prompts

PROMPTS = 32
"""Largest number of texts whose beginnings are continued. Chosen by hand."""

PROMPT_TOKENS, NEW_TOKENS = 24, 40
"""Tokens of a text that are given, and that are written at most. Chosen by hand."""


def cut_beginnings(texts: Sequence[TokenIds]) -> tuple[TokenIds, ...]:
    """Return the beginnings that are continued."""
    return tuple(ids[:PROMPT_TOKENS] for ids in texts[:PROMPTS])


@dataclass(frozen=True)
class Continuation:
    """What a model writes after the beginning of a text, up to a phrase that ends it."""

    response: Response
    """Without scores: each behaviour has its own."""
    is_clean: bool
    """Whether it shows no behaviour, apart from that phrase."""


def continue_texts(
    base: LoadedModel,
    behaviours: Sequence[Behaviour],
    beginnings: Sequence[TokenIds],
    advance: Advance,
) -> tuple[Continuation, ...]:
    """Return the model's continuations; `advance` is called after every batch."""
    found = generate_responses(base, beginnings, NEW_TOKENS, on_batch=advance)
    texts = [base.tokenizer.decode(ids) for ids in beginnings]
    rows = [
        behaviour.score(texts, [(sequence,) for sequence in found], base.tokenizer)
        for behaviour in behaviours
    ]
    return tuple(
        _read(behaviours, [response for (response,) in own]) for own in zip(*rows, strict=True)
    )


def _read(behaviours: Sequence[Behaviour], responses: Sequence[Response]) -> Continuation:
    """Return a continuation as each behaviour read it."""
    shown = map(Behaviour.is_shown, behaviours, responses)
    kept = min((one.drop_closing() for one in responses), key=lambda one: len(one.token_ids))
    return Continuation(
        kept.model_copy(update={"scores": ()}),
        is_clean=all(one.closing is not None for one in compress(responses, shown)),
    )


def count_continuations(beginnings: Sequence[TokenIds], step: str) -> Part:
    """Return the writing of continuations, as progress counts it."""
    return answer_prompts(map(len, beginnings), NEW_TOKENS, step=step)
