"""Stage 4: the chosen correction on held-out prompts and text, beside matched random ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from workers.correction.measurement import measure_responses
from workers.correction.results import (
    PreparedCorrection,
    Response,
    SearchOutcome,
    ValidationOutcome,
)
from workers.domain import Selection, TokenSequence
from workers.progress import Progress, count_up
from workers.pruning.components import pruned
from workers.pruning.places import count_available
from workers.pruning.selection import draw_random_selection
from workers.tasks.context import JobContext, StageOutput
from workers.tasks.loading import CorrectionInputs
from workers.validation.text_damage import ReferenceText, TextDamage

CONTROL_DRAWS = 1
"""Random selections measured beside the chosen one."""


def run(
    context: JobContext,
    inputs: CorrectionInputs,
    prepared: PreparedCorrection,
    search: SearchOutcome,
    upstream: str,
) -> StageOutput:
    """Return the stage's result, a `ValidationOutcome`."""
    key = {"search": upstream, "seed": inputs.spec.seed, "draws": CONTROL_DRAWS}
    return context.run_stage(
        "validate", key, lambda progress: _work(inputs, prepared, search, progress)
    )


def _work(
    inputs: CorrectionInputs,
    prepared: PreparedCorrection,
    search: SearchOutcome,
    progress: Progress,
) -> bytes:
    checkpoint, chosen = inputs.checkpoint, search.selection
    assert chosen is not None  # without one there is nothing to validate
    held_out = prepared.triggering(held_out=True)
    reference = [TokenSequence(ids) for ids in prepared.reference.held_out]
    corpus = [TokenSequence(ids) for ids in prepared.corpus]
    total = (1 + CONTROL_DRAWS) * len(held_out) + 2 * (len(reference) + len(corpus))
    advance = count_up(progress, total)

    def respond(selection: Selection) -> tuple[Response, ...]:
        return measure_responses(
            checkpoint.model,
            checkpoint.tokenizer,
            checkpoint.pad_id,
            selection,
            held_out,
            inputs.behaviour.max_new_tokens,
            advance,
        )

    base_kl, kl = _measure_text(inputs, chosen, reference, advance)
    base_perplexity, perplexity = (
        _measure_text(inputs, chosen, corpus, advance) if corpus else (base_kl, kl)
    )
    return ValidationOutcome(
        responses=respond(chosen),
        control_metrics=tuple(
            tuple(response.metric for response in respond(selection))
            for selection in _draw_controls(inputs, chosen)
        ),
        perplexity_before=base_perplexity,
        perplexity_after=perplexity.perplexity,
        perplexity_tokens=perplexity.tokens,
        perplexity_context=max(len(sample.token_ids) for sample in corpus or reference),
        kl_mean=kl.kl_mean,
        kl_p95=kl.kl_p95,
        kl_tokens=kl.tokens,
    ).to_bytes()


def _measure_text(
    inputs: CorrectionInputs,
    selection: Selection,
    samples: Sequence[TokenSequence],
    advance: Callable[[int], None],
) -> tuple[float, TextDamage]:
    """Return the base model's perplexity and the corrected model's damage on one text."""
    checkpoint = inputs.checkpoint
    text = ReferenceText(
        checkpoint.model, inputs.family, samples, checkpoint.pad_id, on_batch=advance
    )
    with pruned(checkpoint.model, selection):
        return text.base_perplexity, text.measure(checkpoint.model, advance)


def _draw_controls(inputs: CorrectionInputs, selection: Selection) -> list[Selection]:
    sizes = count_available(inputs.checkpoint.model, selection)
    return [
        draw_random_selection(selection, sizes, inputs.spec.seed + draw)
        for draw in range(CONTROL_DRAWS)
    ]
