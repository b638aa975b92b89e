"""Bytes that a correction takes: on the device, in main memory, in the artifact store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from excise.estimates.prompts import SetSize
from excise.estimates.shape import DTYPE_BYTES, ModelShape
from excise.names import Granularity, Score, SearchPreset
from excise.specs.correction import CorrectionSpec

GENERATED_AT_ONCE = 128
"""Responses in a batch."""

PASS_TOKENS = 1024
"""Tokens in a batch that goes backwards on a GPU (workers/attribution/attribution.py)."""

CPU_PASS_TOKENS = 256
"""The same on the CPU."""

PROCESS_BYTES = 600 * 2**20
"""A job's process without a model: 457 MiB resident after its imports with PyTorch's CPU build,
measured, and room for the allocator."""

SUMS_SHARE = 0.25
"""Sums of a segment's weights, of the model's own bytes, where it is more than one layer's."""

KEPT_ACTIVATIONS = 34
"""Numbers that a backward pass keeps for each token, layer and hidden feature; the usual estimate
for a decoder layer (arXiv 2205.05198, section 4), halved where attention is not materialised."""

POOL_SHARE = 3
"""Candidates, the largest amount times this (workers/correction/candidates.py)."""

REFERENCE_ROWS = 512
"""Pieces of reference text by which candidates are weighed together, a number each."""

MOST_ENTRIES = 1 << 28
"""Most numbers of these rows together: with more candidates there are fewer rows."""

PROTECTED_ROWS = 320
"""Samples of the built-in slices that guard candidates as well, a number each, without such a
limit: 315 with SmolLM2's tokenizer, 298 with Gemma's, counted; some behaviours add a few."""

MOST_SHARES: Mapping[Granularity, float] = {
    Granularity.NEURON: 1.5e-2,
    Granularity.HEAD: 5e-2,
    Granularity.WEIGHT: 3.2e-4,
}
"""Largest share of all components that a search without amounts prunes
(workers/correction/amounts.py)."""

REFINED = 2
"""How many times its largest listed amount the preset `thorough` may go to."""

SHORTLIST_BYTES = 24
"""Of a candidate, in what attribution stores."""

PATCH_BYTES = 16
"""Of a pruned weight in patch and results."""

TEXT_BYTES = 400
"""Of a stored response."""

OTHER_BYTES = 5 * 2**20
"""Of reports, and whatever else a job stores."""


@dataclass(frozen=True)
class Footprint:
    """Bytes that a job takes."""

    device_bytes: int
    """Peak on the device; the same memory as the host's where there is no GPU."""
    host_bytes: int
    """Peak of the job's process in main memory."""
    disk_bytes: int
    """In the artifact store, at the end."""


@dataclass(frozen=True)
class _Parts:
    """What is in memory beside the weights, not all of it at a time."""

    generating: int
    """Keys, values and logits of a batch of responses."""
    passing: int
    """What a backward pass keeps."""
    sums: int
    """Sums of relevance of a segment's weights, beside a pass."""
    rows: int
    """What candidates are weighed by, from the first round of the search to its last."""


def count_footprint(
    spec: CorrectionSpec, shape: ModelShape, behaviours: Sequence[SetSize], *, on_gpu: bool
) -> Footprint:
    """Return the bytes that a correction takes, with a GPU or without one.

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
    """`pass_tokens` are the tokens of a batch that goes backwards."""
    longest = max(
        own.mean_tokens + behaviour.decoding.max_new_tokens
        for behaviour, own in zip(spec.behaviours, behaviours, strict=True)
    )
    cache = shape.count_cache_bytes(int(GENERATED_AT_ONCE * longest), spec.dtype)
    item = DTYPE_BYTES[spec.dtype]
    kept = pass_tokens * shape.hidden * item * KEPT_ACTIVATIONS * shape.layers // 2
    is_weights = Granularity.WEIGHT in spec.attribution.granularities
    return _Parts(
        generating=cache + 4 * 4 * GENERATED_AT_ONCE * shape.vocabulary,
        passing=kept + 4 * 512 * shape.vocabulary,
        sums=_count_sums_bytes(spec, shape) if is_weights else 0,
        rows=sum(_list_rows_bytes(spec, shape)),
    )


def _count_sums_bytes(spec: CorrectionSpec, shape: ModelShape) -> int:
    """Return the sums of one segment's weights: of each behaviour, and two of general text."""
    questions = len(spec.behaviours) + 2
    layer = 4 * questions * shape.linear_weights // shape.layers
    return max(layer, int(SUMS_SHARE * shape.count_bytes(spec.dtype)))


def _list_rows_bytes(spec: CorrectionSpec, shape: ModelShape) -> Iterator[int]:
    """Yield, for each granularity, the bytes of what its candidates are weighed together by."""
    if spec.attribution.score is not Score.BENEFIT_DAMAGE:
        return
    protects = spec.protect is not None and spec.protect.abilities
    for granularity in spec.attribution.granularities:
        pool = POOL_SHARE * _count_most(spec, shape, granularity)
        protected = PROTECTED_ROWS * pool if protects else 0
        yield 4 * (min(REFERENCE_ROWS * pool, MOST_ENTRIES) + protected)


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
        pool = most * (POOL_SHARE * SHORTLIST_BYTES + PATCH_BYTES)
    return 4 * texts + pool + 4 * shape.neurons * 8 + OTHER_BYTES
