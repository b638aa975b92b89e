"""Stage 1: what the base model does with the undesired prompts, and how everything is split."""

from __future__ import annotations

from typing import Any

from workers.correction.preparation import (
    TUNING_CORPUS_TOKENS,
    BehaviourSettings,
    ReferenceTokens,
    cut_corpus,
    generate_outcomes,
    judge_signal,
    split_reference,
)
from workers.correction.results import PreparedCorrection, ReferenceSplit
from workers.families import count_components
from workers.progress import Progress
from workers.tasks.context import InvalidInputError, JobContext, StageOutput
from workers.tasks.loading import CorrectionInputs


def run(context: JobContext, inputs: CorrectionInputs) -> StageOutput:
    """Return the stage's result, a `PreparedCorrection`."""
    return context.run_stage("prepare", _key(inputs), lambda progress: _work(inputs, progress))


def _key(inputs: CorrectionInputs) -> dict[str, Any]:
    spec, corpus = inputs.spec, inputs.spec.perplexity
    return {
        "model": inputs.model_sha256,
        "granularity": inputs.granularity.value,
        "behaviour": spec.behaviours[0].model_dump(mode="json", exclude={"prompts"}),
        "prompts": inputs.prompt_set(spec.behaviours[0].prompts).sha256,
        "reference": inputs.prompt_set(spec.reference).sha256,
        "reference_tokens": spec.attribution.reference_tokens,
        "corpus": None
        if corpus is None
        else [inputs.prompt_set(corpus.prompts).sha256, corpus.context, corpus.sequences],
    }


def _work(inputs: CorrectionInputs, progress: Progress) -> bytes:
    checkpoint, behaviour = inputs.checkpoint, inputs.behaviour
    reference = _split_reference(inputs)  # before the costly part: it may be refused
    corpus, corpus_tune = _cut_corpus(inputs)
    outcomes = generate_outcomes(
        checkpoint.model,
        checkpoint.tokenizer,
        checkpoint.pad_id,
        inputs.prompts(behaviour.prompts),
        BehaviourSettings(behaviour.max_new_tokens, behaviour.threshold),
        progress,
    )
    sizes = count_components(checkpoint.model, inputs.family, inputs.granularity)
    return PreparedCorrection(
        model_sha256=inputs.model_sha256,
        components=sum(sizes.values()),
        prompts=outcomes,
        reference=reference,
        corpus=corpus,
        corpus_tune=corpus_tune,
        too_weak=judge_signal(outcomes, behaviour.threshold),
    ).to_bytes()


def _split_reference(inputs: CorrectionInputs) -> ReferenceSplit:
    """Raises `InvalidInputError` where a part would be left without text."""
    texts = inputs.prompts(inputs.spec.reference)
    limits = ReferenceTokens(attribute=inputs.spec.attribution.reference_tokens)
    split = split_reference(inputs.checkpoint.tokenizer, texts, limits)
    if not (split.attribute and split.tune and split.held_out):
        raise InvalidInputError(
            f"reference has {len(texts)} texts, too little for its three parts (attribution, "
            "search, held-out check), each of which needs a text of two tokens. "
            "Give more and longer texts."
        )
    return split


def _cut_corpus(
    inputs: CorrectionInputs,
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """Windows of the corpus to report on, and others for the search.

    Raises `InvalidInputError` for a corpus shorter than one window.
    """
    corpus = inputs.spec.perplexity
    if corpus is None:
        return (), ()
    lines = inputs.prompts(corpus.prompts)
    try:
        windows = cut_corpus(
            inputs.checkpoint.tokenizer,
            lines,
            corpus.context,
            corpus.sequences + max(1, TUNING_CORPUS_TOKENS // corpus.context),
        )
    except ValueError as error:
        raise InvalidInputError(str(error)) from error
    return windows[: corpus.sequences], windows[corpus.sequences :]
