"""The first stage: the base model's own behaviour, the splits, and whether there is a signal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workers.correction.results import PromptOutcome, ReferenceSplit
from workers.progress import Progress, count_up
from workers.validation.generation import generate_responses
from workers.validation.splits import split_by_hash
from workers.validation.uniqueness import compute_response_uniqueness

TUNE_SHARE = 0.5
"""Share of the undesired prompts used for attribution and search; the rest is held out."""

REFERENCE_TOKENS = 128
"""Longest reference sequence; longer texts are cut into several."""

TUNING_CORPUS_TOKENS = 1536
"""Tokens of the perplexity corpus that the search measures on, apart from those reported."""

MIN_TRIGGERING = 4
"""Fewest prompts showing the behaviour, in either split, with which a job goes on."""


class PromptTooLongError(ValueError):
    """A prompt and its response do not fit into the model's context; shorten the prompt."""


@dataclass(frozen=True)
class BehaviourSettings:
    """How the undesired behaviour is brought out and recognised."""

    max_new_tokens: int
    threshold: float
    """A prompt triggers when its response's uniqueness ratio is at most this."""


def generate_outcomes(
    model: Any,
    tokenizer: Any,
    pad_id: int,
    prompts: Sequence[str],
    settings: BehaviourSettings,
    progress: Progress,
) -> tuple[PromptOutcome, ...]:
    """Return each prompt with the base model's greedy response, its metric and its split.

    Raises `PromptTooLongError` naming the first prompt that does not fit.
    """
    prompt_ids = [encode_text(tokenizer, prompt) for prompt in prompts]
    _check_lengths(prompts, prompt_ids, settings.max_new_tokens, _context_length(model))
    sequences = generate_responses(
        model,
        prompt_ids,
        settings.max_new_tokens,
        pad_id,
        on_batch=count_up(progress, len(prompts)),
    )
    is_tune = split_by_hash(prompts, TUNE_SHARE)
    outcomes = []
    for prompt, sequence, tune in zip(prompts, sequences, is_tune, strict=True):
        metric = compute_response_uniqueness(sequence.response_ids)
        outcomes.append(
            PromptOutcome(
                prompt=prompt,
                prompt_ids=sequence.prompt_ids,
                response_ids=sequence.response_ids,
                response=tokenizer.decode(sequence.response_ids),
                metric=metric,
                # An empty response repeats nothing, though its ratio is 0 by definition.
                triggering=bool(sequence.response_ids) and metric <= settings.threshold,
                held_out=not tune,
            )
        )
    return tuple(outcomes)


@dataclass(frozen=True)
class ReferenceTokens:
    """How many tokens of reference text each use takes at most."""

    attribute: int = 8192
    tune: int = 1024
    held_out: int = 2048


def split_reference(
    tokenizer: Any, texts: Sequence[str], limits: ReferenceTokens
) -> ReferenceSplit:
    """Return reference sequences for attribution, for the search and for the held-out check.

    A text falls, with its near-duplicates, into one part by hash: half of the texts are for
    attribution, a quarter each for the others. Each part holds at most its number of tokens,
    its last sequence cut to what is left; a sequence of a single token predicts nothing.
    """
    attributes = split_by_hash(texts, 0.5)
    tunes = split_by_hash(texts, 0.75)
    parts: dict[str, list[tuple[int, ...]]] = {"attribute": [], "tune": [], "held_out": []}
    budgets = {
        "attribute": limits.attribute,
        "tune": limits.tune,
        "held_out": limits.held_out,
    }
    for text, attribute, tune in zip(texts, attributes, tunes, strict=True):
        part = "attribute" if attribute else "tune" if tune else "held_out"
        for sequence in _cut(encode_text(tokenizer, text)):
            kept = sequence[: budgets[part]]
            if len(kept) > 1:
                parts[part].append(kept)
                budgets[part] -= len(kept)
    return ReferenceSplit(**{name: tuple(sequences) for name, sequences in parts.items()})


def cut_corpus(
    tokenizer: Any, lines: Sequence[str], context: int, sequences: int
) -> tuple[tuple[int, ...], ...]:
    """Return the first non-overlapping windows of `context` tokens of the joined lines.

    Raises `ValueError` when the corpus does not fill one window.
    """
    token_ids = encode_text(tokenizer, "\n".join(lines))
    starts = range(0, len(token_ids) - context + 1, context)
    if not starts:
        raise ValueError(
            f"the perplexity corpus has {len(token_ids)} tokens, one window needs {context}; "
            "give a longer corpus or a shorter context"
        )
    return tuple(tuple(token_ids[start : start + context]) for start in starts[:sequences])


def judge_signal(outcomes: Sequence[PromptOutcome], threshold: float) -> str | None:
    """Return why the base model does not show the behaviour enough to correct it, or None."""
    if not outcomes:
        return f"signal too weak: no prompts; {MIN_TRIGGERING} needed in each split"
    counts = {
        side: sum(outcome.triggering for outcome in outcomes if outcome.held_out is held_out)
        for side, held_out in (("tuning", False), ("held-out", True))
    }
    if all(count >= MIN_TRIGGERING for count in counts.values()):
        return None
    mean = sum(outcome.metric for outcome in outcomes) / len(outcomes)
    return (
        f"signal too weak: {sum(counts.values())} of {len(outcomes)} prompts have a response "
        f"uniqueness of at most {threshold:g} ({counts['tuning']} tuning, "
        f"{counts['held-out']} held-out; {MIN_TRIGGERING} needed in each); "
        f"the mean over all prompts is {mean:.3f}"
    )


def encode_text(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Return the token ids of a raw text: no special tokens, no chat template."""
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


def _cut(token_ids: tuple[int, ...]) -> list[tuple[int, ...]]:
    starts = range(0, len(token_ids), REFERENCE_TOKENS)
    windows = (token_ids[start : start + REFERENCE_TOKENS] for start in starts)
    return [window for window in windows if len(window) > 1]


def _context_length(model: Any) -> int:
    return int(model.config.max_position_embeddings)


def _check_lengths(
    prompts: Sequence[str],
    prompt_ids: Sequence[tuple[int, ...]],
    max_new_tokens: int,
    context: int,
) -> None:
    for number, (prompt, ids) in enumerate(zip(prompts, prompt_ids, strict=True), start=1):
        if not ids:
            raise PromptTooLongError(f"prompt {number} has no tokens; remove it")
        if len(ids) + max_new_tokens > context:
            raise PromptTooLongError(
                f"prompt {number} ({prompt[:40]!r}…) has {len(ids)} tokens; with "
                f"{max_new_tokens} new ones that exceeds the model's context of {context}; "
                "shorten the prompt or lower max_new_tokens"
            )
