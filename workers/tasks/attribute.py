"""Stage 2: relevance of every neuron on general text and on the undesired responses."""

from __future__ import annotations

from workers.attribution.contrastive import compute_contrastive_relevance, serialise_relevance
from workers.correction.results import PreparedCorrection
from workers.domain import TokenSequence
from workers.progress import Progress, count_up
from workers.tasks.context import JobContext, StageOutput
from workers.tasks.loading import CorrectionInputs


def run(
    context: JobContext, inputs: CorrectionInputs, prepared: PreparedCorrection, upstream: str
) -> StageOutput:
    """Return the stage's result, a serialised `ContrastiveRelevance`."""
    key = {
        "prepare": upstream,
        "attributor": inputs.attributor.value,
        "seed": inputs.spec.seed,
    }
    return context.run_stage("attribute", key, lambda progress: _work(inputs, prepared, progress))


def _work(inputs: CorrectionInputs, prepared: PreparedCorrection, progress: Progress) -> bytes:
    general = [TokenSequence(ids) for ids in prepared.reference.attribute]
    undesired = [outcome.undesired_sequence for outcome in prepared.triggering(held_out=False)]
    relevance = compute_contrastive_relevance(
        inputs.checkpoint.model,
        inputs.family,
        inputs.attributor,
        general,
        undesired,
        inputs.checkpoint.pad_id,
        inputs.spec.seed,
        count_up(progress, len(general) + len(undesired)),
    )
    return serialise_relevance(relevance)
