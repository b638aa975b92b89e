"""Stage 1: measure the base model on the undesired prompts, and split all prompts and texts."""

from __future__ import annotations

from typing import Any

from workers.correction.preparation import (
    TUNING_CORPUS_TOKENS,
    PreparationWork,
    ReferenceTokens,
    judge_signal,
    prepare_behaviour,
    split_reference,
)
from workers.correction.results import PreparedBehaviour, PreparedCorrection, ReferenceSplit
from workers.kinds.correction.ablation import check_ablations
from workers.measuring.splits import describe_alike
from workers.models.encoding import cut_corpus
from workers.progress import Counter, Progress
from workers.stages.abilities import describe_protection, protect
from workers.stages.behaviours import encode_prompts
from workers.stages.checks import load_check_plan
from workers.stages.context import InvalidInputError, StageContext, StageOutput
from workers.stages.inputs import CorrectionInputs

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
    check_ablations(inputs)
    load_check_plan(inputs)
    reference = _split_reference(inputs)  # before the costly part, because it can raise
    corpus, corpus_tune = _cut_corpus(inputs)
    protection = protect(inputs)
    behaviours = _prepare_behaviours(inputs, progress)
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
        protection=protection,
        too_weak="; ".join(reasons) or None,
    ).to_bytes()


def _prepare_behaviours(
    inputs: CorrectionInputs, progress: Progress
) -> tuple[PreparedBehaviour, ...]:
    prompts = [inputs.chats(spec.prompts) for spec in inputs.spec.behaviours]
    encoded = [encode_prompts(inputs.base.tokenizer, chats) for chats in prompts]
    works = [
        PreparationWork(behaviour, tuple(map(len, ids)))
        for behaviour, ids in zip(inputs.behaviours, encoded, strict=True)
    ]
    counter = Counter(progress, [part for work in works for part in work.list_parts()])
    return tuple(
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
