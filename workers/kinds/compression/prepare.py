"""Stage 1 of a compression: calibration samples, corpus windows, and the base model's figures."""

from __future__ import annotations

import random
from typing import Any

from workers.kinds.compression.measurement import list_parts, load_questions, measure
from workers.kinds.compression.results import PreparedCompression
from workers.models.encoding import cut_corpus
from workers.progress import Counter, Progress
from workers.stages.context import InvalidInputError, StageContext, StageOutput
from workers.stages.inputs import CompressionInputs
from workers.stages.weights import check_stored_weights

MAX_WINDOWS = 2**20
"""Limit on the number of windows; no prompt set has as many."""


def run(context: StageContext, inputs: CompressionInputs) -> StageOutput:
    """Return the stage's result, a `PreparedCompression`."""
    return context.run_stage("prepare", _key(inputs), lambda progress: _work(inputs, progress))


def _key(inputs: CompressionInputs) -> dict[str, Any]:
    spec = inputs.spec
    calibration, corpus = spec.calibration, spec.perplexity
    return {
        "model": inputs.model_sha256,
        "dtype": spec.dtype,
        "calibration": [
            inputs.prompt_set(calibration.prompts).sha256,
            calibration.samples,
            calibration.tokens,
        ],
        "corpus": [inputs.prompt_set(corpus.prompts).sha256, corpus.context, corpus.sequences],
        "tasks": [[task.name, inputs.hash_task_rows(task), task.limit] for task in spec.tasks],
        "seed": spec.seed,
    }


def _work(inputs: CompressionInputs, progress: Progress) -> bytes:
    check_stored_weights(inputs)
    calibration = _draw_calibration(inputs)  # before the costly part, because it can raise
    corpus = _cut(
        inputs,
        "perplexity.prompts",
        inputs.spec.perplexity.prompts,
        inputs.spec.perplexity.context,
        inputs.spec.perplexity.sequences,
    )
    questions = load_questions(inputs)
    advance = Counter(progress, list_parts(corpus, questions))
    return PreparedCompression(
        model_sha256=inputs.model_sha256,
        calibration=calibration,
        corpus=corpus,
        before=measure(inputs, corpus, questions, advance),
    ).to_bytes()


def _draw_calibration(inputs: CompressionInputs) -> tuple[tuple[int, ...], ...]:
    """Return windows of the calibration text, drawn with the job's seed, in text order.

    Raises `InvalidInputError` if the text is too short for that many windows.
    """
    wanted = inputs.spec.calibration
    windows = _cut(inputs, "calibration.prompts", wanted.prompts, wanted.tokens, MAX_WINDOWS)
    if len(windows) < wanted.samples:
        raise InvalidInputError(
            f"calibration.prompts fills {len(windows)} samples of {wanted.tokens} tokens; "
            f"{wanted.samples} are asked for. Give more text, or ask for fewer or shorter samples."
        )
    drawn = random.Random(inputs.spec.seed).sample(range(len(windows)), wanted.samples)  # noqa: S311 - no secret
    return tuple(windows[index] for index in sorted(drawn))


def _cut(
    inputs: CompressionInputs, field: str, prompt_set_id: str, tokens: int, most: int
) -> tuple[tuple[int, ...], ...]:
    """Return up to `most` windows of the prompt set named by `field`, with its lines joined.

    Raises `InvalidInputError`.
    """
    try:
        lines = inputs.prompts(prompt_set_id)
        return cut_corpus(inputs.base.tokenizer, lines, tokens, most, name=field)
    except ValueError as error:
        raise InvalidInputError(str(error)) from error
