"""The first stage: the base model's own behaviour, the splits, and whether there is a signal."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from workers.correction.behaviour import BaseModel, Behaviour, respond
from workers.correction.explained import choose_explained
from workers.correction.measurement import collect_base_undesired, mark_undesired
from workers.correction.results import (
    PreparedBehaviour,
    PromptOutcome,
    ReferenceSplit,
    Responses,
)
from workers.domain import Granularity, Selection
from workers.encoding import cut_windows
from workers.families import count_components
from workers.progress import Advance
from workers.pruning.components import pruned
from workers.validation.splits import split_by_hash

TUNE_SHARE = 0.5
"""Share of the undesired prompts used for attribution and search; the rest is held out."""

REFERENCE_TOKENS = 128
"""Longest reference sequence; longer texts are cut into several."""

TUNING_CORPUS_TOKENS = 1536
"""Tokens of the perplexity corpus that the search measures on, apart from those reported."""

MIN_TRIGGERING = 4
"""Fewest prompts showing the behaviour, in either split, with which a job goes on."""

DISTURBED_SHARE = 0.001
"""Share of the MLP neurons without which greedy prompts are screened."""

SCREENING_SEED = 1
"""Added to twice the job's seed for the draws that choose prompts; measurements add nothing."""


class PromptTooLongError(ValueError):
    """A prompt and its response do not fit into the model's context; shorten the prompt."""


def prepare_behaviour(
    base: BaseModel,
    behaviour: Behaviour,
    prompts: Sequence[str],
    prompt_ids: Sequence[Sequence[int]],
    seed: int,
    advance: Advance,
) -> PreparedBehaviour:
    """Return each prompt with its split, whether it triggers, and what the base model answers.

    Prompts are chosen by one run and measured by another. A prompt that was chosen because of
    the very responses it is measured by would look better after any change at all (regression
    to the mean, Galton 1886). Sampled responses are drawn anew; a greedy response is always the
    same, so greedy prompts are chosen by a model that lacks a few random neurons.

    `advance` is called with the number of responses, those of prompts that need no second run
    included. Raises `PromptTooLongError` naming the first prompt that does not fit.
    """
    check_lengths(prompts, prompt_ids, behaviour.decoding.max_new_tokens, base.model)
    is_tune = split_by_hash(prompts, TUNE_SHARE)

    def run(chosen: Sequence[int], seed: int) -> Responses:
        return respond(
            base,
            behaviour,
            [prompts[index] for index in chosen],
            [prompt_ids[index] for index in chosen],
            seed=seed,
            advance=advance,
        )

    everything = range(len(prompts))
    with _disturb(base, behaviour, seed):
        screened = run(everything, 2 * seed + SCREENING_SEED)
    triggers = [any(map(behaviour.is_undesired, samples)) for samples in screened]
    chosen = [index for index in everything if triggers[index]]
    measured = dict(zip(chosen, run(chosen, 2 * seed), strict=True))
    advance((len(prompts) - len(chosen)) * behaviour.decoding.samples)
    outcomes = tuple(
        PromptOutcome(
            prompt=prompts[index],
            prompt_ids=tuple(prompt_ids[index]),
            held_out=not is_tune[index],
            screened=screened[index],
            triggering=triggers[index],
            responses=measured.get(index, ()),
        )
        for index in everything
    )
    marked = tuple(_mark_tuning(base, behaviour, outcome) for outcome in outcomes)
    return PreparedBehaviour(
        name=behaviour.name,
        prompts=marked,
        explained=choose_explained(base, behaviour, marked),
    )


def _mark_tuning(base: BaseModel, behaviour: Behaviour, outcome: PromptOutcome) -> PromptOutcome:
    """Return the outcome with what attribution is to explain marked."""
    if outcome.held_out or not outcome.triggering:
        return outcome
    screened, responses = mark_undesired(
        base, behaviour, [outcome, outcome], (outcome.screened, outcome.responses)
    )
    return outcome.model_copy(update={"screened": screened, "responses": responses})


def _disturb(base: BaseModel, behaviour: Behaviour, seed: int) -> AbstractContextManager[None]:
    """Return a context in which a greedy behaviour's model lacks a few random neurons."""
    if behaviour.decoding.temperature > 0:
        return nullcontext()
    generator = torch.Generator().manual_seed(seed)
    chosen = {
        module: _draw(size, generator)
        for module, size in count_components(base.model, base.family, Granularity.NEURON).items()
    }
    kept = {module: indices for module, indices in chosen.items() if len(indices)}
    return pruned(base.model, Selection(Granularity.NEURON, kept))


def _draw(size: int, generator: torch.Generator) -> torch.Tensor:
    return (torch.rand(size, generator=generator) < DISTURBED_SHARE).nonzero().squeeze(1)


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
        for sequence in cut_windows(tokenizer, text, REFERENCE_TOKENS):
            kept = sequence[: budgets[part]]
            if len(kept) > 1:
                parts[part].append(kept)
                budgets[part] -= len(kept)
    return ReferenceSplit(**{name: tuple(sequences) for name, sequences in parts.items()})


def cut_corpus(
    tokenizer: Any, lines: Sequence[str], context: int, sequences: int
) -> tuple[tuple[int, ...], ...]:
    """Return the first windows of `context` tokens of the joined lines, none overlapping.

    Raises `ValueError` when the corpus does not fill one window.
    """
    windows = tuple(cut_windows(tokenizer, "\n".join(lines), context))
    full = tuple(window for window in windows if len(window) == context)
    if not full:
        raise ValueError(
            f"the perplexity corpus has {sum(map(len, windows))} tokens, one window needs "
            f"{context}; give a longer corpus or a shorter context"
        )
    return full[:sequences]


def judge_signal(behaviour: Behaviour, prepared: PreparedBehaviour) -> str | None:
    """Return why the base model does not show the behaviour enough to correct it, or None."""
    counts = {
        side: len(prepared.triggering(held_out=held_out))
        for side, held_out in (("tuning", False), ("held-out", True))
    }
    if any(count < MIN_TRIGGERING for count in counts.values()):
        return (
            f"signal too weak: {sum(counts.values())} of {len(prepared.prompts)} prompts bring "
            f"out {prepared.name} ({counts['tuning']} tuning, {counts['held-out']} held-out; "
            f"{MIN_TRIGGERING} needed in each)"
        )
    if not collect_base_undesired(behaviour, prepared.triggering(held_out=False)):
        return (
            f"signal too weak: the model brings out {prepared.name} only while it lacks a few "
            "neurons; as it is, no response to a tuning prompt shows it"
        )
    return None


def check_lengths(
    prompts: Sequence[str],
    prompt_ids: Sequence[Sequence[int]],
    max_new_tokens: int,
    model: Any,
) -> None:
    """Raise `PromptTooLongError` for a prompt without tokens or beyond the model's context."""
    context = int(model.config.max_position_embeddings)
    for number, (prompt, ids) in enumerate(zip(prompts, prompt_ids, strict=True), start=1):
        if not ids:
            raise PromptTooLongError(f"prompt {number} has no tokens; remove it")
        if len(ids) + max_new_tokens > context:
            raise PromptTooLongError(
                f"prompt {number} ({prompt[:40]!r}…) has {len(ids)} tokens; with "
                f"{max_new_tokens} new ones that exceeds the model's context of {context}; "
                "shorten the prompt or lower max_new_tokens"
            )
