"""Stage 3 of a compression: measure the compressed model exactly as the base model was."""

from __future__ import annotations

from workers.kinds.compression.measurement import list_parts, load_questions, measure
from workers.kinds.compression.results import PreparedCompression, apply_masks
from workers.progress import Counter, Progress
from workers.stages.context import StageContext, StageOutput
from workers.stages.inputs import CompressionInputs


def run(
    context: StageContext,
    inputs: CompressionInputs,
    prepared: PreparedCompression,
    upstream: StageOutput,
) -> StageOutput:
    """Return the stage's result, a `Measured`; the loaded model stays compressed."""
    modules = inputs.base.find_linear_modules()
    apply_masks(upstream.data, modules)  # after a restart, the loaded model is not compressed

    def work(progress: Progress) -> bytes:
        questions = load_questions(inputs)
        advance = Counter(progress, list_parts(prepared.corpus, questions))
        return measure(inputs, prepared.corpus, questions, advance).to_bytes()

    return context.run_stage("validate", {"compress": upstream.sha256}, work)
