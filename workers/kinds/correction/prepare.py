"""Stage 1: measure the base model on the undesired prompts, and split all prompts and texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workers.correction.continuations import (
    Continuation,
    continue_texts,
    count_continuations,
    cut_beginnings,
)
from workers.correction.preparation import (
    TUNING_CORPUS_TOKENS,
    PreparationWork,
    ReferenceTokens,
    judge_signal,
    prepare_behaviour,
    split_reference,
)
from workers.correction.protection import protect_answers, protect_continuations
from workers.correction.results import (
    PreparedBehaviour,
    PreparedCorrection,
    ProtectedSlice,
    ReferenceSplit,
)
from workers.kinds.correction.ablation import check_ablations
from workers.measuring.splits import describe_alike
from workers.models.encoding import cut_corpus
from workers.progress import Counter, Progress
from workers.stages.abilities import describe_protection, protect
from workers.stages.behaviours import encode_prompts
from workers.stages.checks import load_check_plan
from workers.stages.context import InvalidInputError, StageContext, StageOutput
from workers.stages.inputs import CorrectionInputs
from workers.stages.weights import check_stored_weights

_JUDGED_LATER = {"prompts", "min_effect", "max_remaining"}
"""Fields of a behaviour on which its preparation does not depend; prompts are hashed by content."""


def run(context: StageContext, inputs: CorrectionInputs) -> StageOutput:
    """Return the stage's result, a `PreparedCorrection`."""
    return context.run_stage("prepare", _key(inputs), lambda progress: _work(inputs, progress))


def _key(inputs: CorrectionInputs) -> dict[str, Any]:
    spec, corpus = inputs.spec, inputs.spec.perplexity
    return {
        "model": inputs.model_sha256,
        "dtype": spec.dtype,
        "seed": spec.seed,
        "granularities": [granularity.value for granularity in inputs.granularities],
        "behaviours": [
            [
                behaviour.model_dump(mode="json", exclude=_JUDGED_LATER),
                inputs.prompt_set(behaviour.prompts).sha256,
            ]
            for behaviour in spec.behaviours
        ],
        "reference": inputs.prompt_set(spec.reference).sha256,
        "protect": describe_protection(inputs),
        "reference_tokens": spec.attribution.reference_tokens,
        "corpus": None
        if corpus is None
        else [inputs.prompt_set(corpus.prompts).sha256, corpus.context, corpus.sequences],
    }


def _work(inputs: CorrectionInputs, progress: Progress) -> bytes:
    check_stored_weights(inputs)
    check_ablations(inputs)
    load_check_plan(inputs)
    reference = _split_reference(inputs)  # before the costly part, because it can raise
    corpus, corpus_tune = _cut_corpus(inputs)
    protection = protect(inputs)
    behaviours, counter = _prepare_behaviours(inputs, progress)
    answers = _protect_answers(inputs, behaviours)
    continued: tuple[Continuation, ...] = ()
    if answers:
        continued = _continue(inputs, reference.tune, counter)
        answers += _protect_continuations(inputs, reference, continued, counter)
    judged = map(judge_signal, inputs.behaviours, behaviours)
    reasons = [reason for reason in judged if reason is not None]
    return PreparedCorrection(
        model_sha256=inputs.model_sha256,
        components={
            granularity: sum(inputs.component_counts(granularity).values())
            for granularity in inputs.granularities
        },
        behaviours=behaviours,
        reference=reference,
        corpus=corpus,
        corpus_tune=corpus_tune,
        protection=protection + answers,
        continued=tuple(own.response for own in continued),
        too_weak="; ".join(reasons) or None,
    ).to_bytes()


def _protect_answers(
    inputs: CorrectionInputs, behaviours: Sequence[PreparedBehaviour]
) -> tuple[ProtectedSlice, ...]:
    """Return, for each behaviour with phrases that end answers, what is said before them."""
    if inputs.spec.protect is None:
        return ()
    return tuple(filter(None, map(protect_answers, behaviours)))


def _protect_continuations(
    inputs: CorrectionInputs,
    reference: ReferenceSplit,
    continued: Sequence[Continuation],
    counter: Counter,
) -> tuple[ProtectedSlice, ...]:
    """Return the base's continuations of reference text that show no behaviour, to be kept.

    The search learns from continuations of the texts for attribution, and tunes on `continued`,
    the continuations of the texts for tuning.
    """
    learned = _continue(inputs, reference.attribute, counter)
    learn, tune = (
        [
            (ids, own.response)
            for ids, own in zip(cut_beginnings(texts), found, strict=True)
            if own.is_clean
        ]
        for texts, found in ((reference.attribute, learned), (reference.tune, continued))
    )
    return tuple(filter(None, [protect_continuations(learn, tune)]))


def _continue(
    inputs: CorrectionInputs, texts: Sequence[tuple[int, ...]], counter: Counter
) -> tuple[Continuation, ...]:
    beginnings = cut_beginnings(texts)
    counter.expect(count_continuations(beginnings, "continuations of reference text"))
    return continue_texts(inputs.base, inputs.behaviours, beginnings, counter)


def _prepare_behaviours(
    inputs: CorrectionInputs, progress: Progress
) -> tuple[tuple[PreparedBehaviour, ...], Counter]:
    prompts = [inputs.chats(spec.prompts) for spec in inputs.spec.behaviours]
    encoded = [encode_prompts(inputs.base.tokenizer, chats) for chats in prompts]
    works = [
        PreparationWork(behaviour, tuple(map(len, ids)))
        for behaviour, ids in zip(inputs.behaviours, encoded, strict=True)
    ]
    counter = Counter(progress, [part for work in works for part in work.list_parts()])
    prepared = tuple(
        prepare_behaviour(
            inputs.base,
            behaviour,
            [prompt.text for prompt in chats],
            ids,
            inputs.spec.seed,
            counter,
        )
        for behaviour, chats, ids in zip(inputs.behaviours, prompts, encoded, strict=True)
    )
    return prepared, counter


def _split_reference(inputs: CorrectionInputs) -> ReferenceSplit:
    """Return the reference text in three parts; raise `InvalidInputError` if one would be empty."""
    texts = inputs.prompts(inputs.spec.reference)
    limits = ReferenceTokens(attribute=inputs.spec.attribution.reference_tokens)
    split = split_reference(inputs.base.tokenizer, texts, limits)
    if not (split.attribute and split.tune and split.held_out):
        raise InvalidInputError(
            f"reference has {len(texts)} texts{describe_alike(texts)}, too little for its three "
            "parts (attribution, search, held-out check), each of which needs a text of two "
            "tokens. Give more, longer and more varied texts."
        )
    return split


def _cut_corpus(
    inputs: CorrectionInputs,
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """Return windows of the corpus for the report, and other windows for the search.

    Raises `InvalidInputError` if the corpus is shorter than one window.
    """
    corpus = inputs.spec.perplexity
    if corpus is None:
        return (), ()
    lines = inputs.prompts(corpus.prompts)
    try:
        windows = cut_corpus(
            inputs.base.tokenizer,
            lines,
            corpus.context,
            corpus.sequences + max(1, TUNING_CORPUS_TOKENS // corpus.context),
            name="perplexity.prompts",
        )
    except ValueError as error:
        raise InvalidInputError(str(error)) from error
    return windows[: corpus.sequences], windows[corpus.sequences :]
