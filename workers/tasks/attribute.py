"""Stage 2: relevance of every neuron on general text and on the undesired responses."""

from __future__ import annotations

from workers.attribution.contrastive import compute_contrastive_relevance, serialise_relevance
from workers.correction.results import PreparedCorrection
from workers.domain import TokenSequence
from workers.progress import Advance
from workers.tasks.context import JobContext, StageOutput, compute_key
from workers.tasks.loading import CorrectionInputs
from workers.tasks.sharding import ShardedStage, ShardedWork, run_shards


def run(
    context: JobContext, inputs: CorrectionInputs, prepared: PreparedCorrection, upstream: str
) -> StageOutput:
    """Return the stage's result, a serialised `ContrastiveRelevance`."""
    key = {
        "prepare": upstream,
        "attributor": inputs.attributor.value,
        "seed": inputs.spec.seed,
    }
    stage = ShardedStage("attribute", compute_key("attribute", key), upstream)
    return context.run_stage(
        "attribute",
        key,
        lambda progress: b"".join(
            run_shards(context, stage, build_work(inputs, prepared), progress)
        ),
    )


def build_work(inputs: CorrectionInputs, prepared: PreparedCorrection) -> ShardedWork:
    """The stage's work; the same on every worker."""
    general = [TokenSequence(ids) for ids in prepared.reference.attribute]
    undesired = [outcome.undesired_sequence for outcome in prepared.triggering(held_out=False)]

    def compute(position: int, advance: Advance) -> bytes:  # noqa: ARG001
        relevance = compute_contrastive_relevance(
            inputs.checkpoint.model,
            inputs.family,
            inputs.attributor,
            general,
            undesired,
            inputs.checkpoint.pad_id,
            inputs.spec.seed,
            advance,
        )
        return serialise_relevance(relevance)

    return ShardedWork((len(general) + len(undesired),), compute)
