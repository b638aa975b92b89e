"""Bytes that a correction needs: on the device, in main memory, in the artifact store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from excise.estimates.prompts import SetSize
from excise.estimates.shape import DTYPE_BYTES, ModelShape
from excise.names import Granularity, Score, SearchPreset
from excise.specs.correction import CorrectionSpec

GENERATED_AT_ONCE = 128
"""Number of responses in a batch."""

PASS_TOKENS = 1024
"""Number of tokens in a backward batch on a GPU (workers/attribution/attribution.py)."""

CPU_PASS_TOKENS = 256
"""The same on the CPU."""

PROCESS_BYTES = 600 * 2**20
"""Size of a job's process without a model: 457 MiB resident after its imports with PyTorch's CPU
build, measured, plus room for the allocator."""

SUMS_SHARE = 0.25
"""Size of the sums of a segment's weights ÷ size of the model, if that exceeds one layer's sums."""

FLOAT32_BYTES = 4

LOGIT_BYTES = 4 * FLOAT32_BYTES
"""Bytes for each response and token of the vocabulary while a token is chosen: four float32
numbers."""

EXPLAINED_POSITIONS = 512
"""Number of positions of a backward batch whose logits are held at once, in float32."""

KEPT_ACTIVATIONS = 34
"""Numbers that a backward pass keeps for each token, layer and hidden feature; the usual estimate
for a decoder layer (arXiv 2205.05198, section 4), halved where attention is not materialised."""

ROW_BYTES = 2
"""Bytes per number in the rows by which candidates are weighed (workers/attribution/fisher.py)."""

POOL_RATIO = 3
"""Number of candidates ÷ largest amount (workers/correction/candidates.py)."""

REFERENCE_ROWS = 512
"""Number of pieces of reference text by which candidates are weighed, with one number each."""

MOST_ENTRIES = 1 << 28
"""Limit on the numbers in these rows: if there are more candidates, there are fewer rows."""

PROTECTED_ROWS = 620
"""Number of samples of the built-in slices that also guard candidates, with one number each and no
such limit: 515 with SmolLM2's tokenizer, counted, and as many again of each slice that refuses a
trial, which five at most did; some behaviours add a few."""

MOST_SHARES: Mapping[Granularity, float] = {
    Granularity.NEURON: 1.5e-2,
    Granularity.HEAD: 5e-2,
    Granularity.WEIGHT: 3.2e-4,
}
"""Largest share of all components that a search without amounts prunes
(workers/correction/amounts.py)."""

REFINED = 2
"""Factor by which the preset `thorough` may exceed its largest listed amount."""

SHORTLIST_BYTES = 3 * 16 + 7
"""Bytes per candidate that attribution stores at most: between two segments it keeps three times as
many candidates, exactly, and at the end rounded ones (docs/decisions/0020)."""

PATCH_BYTES = 16
"""Bytes per pruned weight in patch and results."""

TEXT_BYTES = 400
"""Bytes per stored response."""

OTHER_BYTES = 5 * 2**20
"""Bytes of reports and everything else that a job stores."""


@dataclass(frozen=True)
class Footprint:
    """Bytes that a job needs."""

    device_bytes: int
    """Peak on the device; without a GPU this is the host's memory."""
    host_bytes: int
    """Peak of the job's process in main memory."""
    disk_bytes: int
    """Size in the artifact store, at the end."""


@dataclass(frozen=True)
class _Parts:
    """What is in memory besides the weights, though not all at the same time."""

    generating: int
    """Keys, values and logits of a batch of responses."""
    passing: int
    """What a backward pass keeps, in bytes."""
    sums: int
    """Sums of relevance of a segment's weights, held during a pass."""
    rows: int
    """Rows by which candidates are weighed, from the first round of the search to its last."""


def count_footprint(
    spec: CorrectionSpec, shape: ModelShape, behaviours: Sequence[SetSize], *, on_gpu: bool
) -> Footprint:
    """Return the bytes that a correction needs, with or without a GPU.

    `behaviours` are the sizes of the behaviours' prompt sets, in their order.
    """
    weights = shape.count_bytes(spec.dtype)
    parts = _count_parts(spec, shape, behaviours, PASS_TOKENS if on_gpu else CPU_PASS_TOKENS)
    disk = _count_disk_bytes(spec, shape, behaviours)
    if on_gpu:
        device = weights + max(parts.generating, parts.passing + parts.sums)
        return Footprint(device, PROCESS_BYTES + weights + parts.rows, disk)
    searching = parts.rows + max(parts.generating, parts.passing)
    device = weights + max(parts.passing + parts.sums, searching)
    return Footprint(device, PROCESS_BYTES + device, disk)


def _count_parts(
    spec: CorrectionSpec, shape: ModelShape, behaviours: Sequence[SetSize], pass_tokens: int
) -> _Parts:
    """Return the parts of the memory; a backward batch has `pass_tokens` tokens."""
    longest = max(
        own.mean_tokens + behaviour.decoding.max_new_tokens
        for behaviour, own in zip(spec.behaviours, behaviours, strict=True)
    )
    cache = shape.count_cache_bytes(int(GENERATED_AT_ONCE * longest), spec.dtype)
    item = DTYPE_BYTES[spec.dtype]
    kept = pass_tokens * shape.hidden * item * KEPT_ACTIVATIONS * shape.layers // 2
    has_weights = Granularity.WEIGHT in spec.attribution.granularities
    return _Parts(
        generating=cache + LOGIT_BYTES * GENERATED_AT_ONCE * shape.vocabulary,
        passing=kept + FLOAT32_BYTES * EXPLAINED_POSITIONS * shape.vocabulary,
        sums=_count_sums_bytes(spec, shape) if has_weights else 0,
        rows=sum(_list_rows_bytes(spec, shape)),
    )


def _count_sums_bytes(spec: CorrectionSpec, shape: ModelShape) -> int:
    """Return the bytes of one segment's sums: one per behaviour, and two for general text."""
    questions = len(spec.behaviours) + 2
    layer = FLOAT32_BYTES * questions * shape.linear_weights // shape.layers
    return max(layer, int(SUMS_SHARE * shape.count_bytes(spec.dtype)))


def _list_rows_bytes(spec: CorrectionSpec, shape: ModelShape) -> Iterator[int]:
    """Yield, for each granularity, the bytes of the rows by which its candidates are weighed."""
    if spec.attribution.score is not Score.BENEFIT_DAMAGE:
        return
    protects = spec.protect is not None and spec.protect.abilities
    for granularity in spec.attribution.granularities:
        pool = POOL_RATIO * _count_most(spec, shape, granularity)
        protected = PROTECTED_ROWS * pool if protects else 0
        yield ROW_BYTES * (min(REFERENCE_ROWS * pool, MOST_ENTRIES) + protected)


def _count_most(spec: CorrectionSpec, shape: ModelShape, granularity: Granularity) -> int:
    """Return the largest number of components that the search may prune."""
    amounts = spec.search.amounts
    listed = amounts.get(granularity) if isinstance(amounts, dict) else amounts
    if listed:
        refines = spec.search.preset is SearchPreset.THOROUGH
        return max(listed) * (REFINED if refines else 1)
    components = {
        Granularity.NEURON: shape.neurons,
        Granularity.HEAD: shape.layers * shape.heads,
        Granularity.WEIGHT: shape.linear_weights,
    }
    return int(MOST_SHARES[granularity] * components[granularity])


def _count_disk_bytes(
    spec: CorrectionSpec, shape: ModelShape, behaviours: Sequence[SetSize]
) -> int:
    """Return what the stages store: texts, the pool of candidates, patch and report."""
    texts = sum(
        own.count * behaviour.decoding.samples * TEXT_BYTES
        for behaviour, own in zip(spec.behaviours, behaviours, strict=True)
    )
    pool = 0
    if Granularity.WEIGHT in spec.attribution.granularities:
        most = _count_most(spec, shape, Granularity.WEIGHT)
        pool = most * (POOL_RATIO * SHORTLIST_BYTES + PATCH_BYTES)
    return 4 * texts + pool + 4 * shape.neurons * 8 + OTHER_BYTES
