"""What a correction costs on a machine: bytes on device, host and disk, seconds of each stage.

Everything follows from counts of tokens that go through the model. A forward pass costs two
operations for each weight and token, a backward pass twice that. The constants below were fitted
to recorded jobs on SmolLM2-135M (benchmarks/RESULTS.md: the demo with six rounds, 34, 87, 312 and
142 seconds, and 1,500 prompts of toxicity) and are right within a factor of two, not better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from excise.estimates.machine import Machine
from excise.estimates.shape import DTYPE_BYTES, ModelShape
from excise.names import BehaviourKind, ComputeDtype, Granularity, Stage
from excise.specs.behaviours import BehaviourSpec
from excise.specs.correction import CorrectionSpec

GENERATION_SHARE = 0.4
"""Share of the machine's speed that generation reaches; measured 0.45 in float32 on one core."""

PASS_SHARE = 0.7
"""The same of passes over whole texts; measured 0.72."""

ROUNDS = 6
"""Rounds of a search that names none."""

TRIGGERING_SHARE = 0.5
"""Prompts that bring the behaviour out; they are measured anew, and half of them tune."""

EXPLORING_DRAWS = 3
"""Extra draws of tuning prompts of behaviours whose single tokens are explained."""

CONTROLS = 3
"""Random selections that validation sets beside the correction."""

CHARACTERS_A_TOKEN = 4
"""Of English prose, for sets whose tokens were not counted."""

PROTECTED_TOKENS = 14_000
"""What the built-in slices add to the text that a search reads in each round."""

ABILITY_TOKENS = 33_000
"""One measurement of all built-in slices; base, correction and a third for the control."""

TUNING_TOKENS = 2_560
"""Reference text and corpus that each round is measured on."""

TEXT_TOKENS = 5_000
"""Held-out text and responses to reference prompts, by which each state is validated."""

FISHER_TOKENS = 512 * 32
"""Rows of the general cost times their tokens; each is a backward pass."""

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
"""Candidates beside the largest amount."""

DEFAULT_AMOUNT_SHARE = 1 / 4000
"""Largest amount that a search tries without amounts, of all single weights."""

PATCH_BYTES = 16
"""Of a pruned weight in patch and results."""

TEXT_BYTES = 400
"""Of a stored response."""


@dataclass(frozen=True)
class SetSize:
    """How large a prompt set is."""

    count: int
    tokens: int
    """Of all of it."""

    @property
    def mean_tokens(self) -> float:
        """Tokens of one prompt."""
        return self.tokens / max(self.count, 1)


@dataclass(frozen=True)
class Cost:
    """What a job takes."""

    device_bytes: int
    """Peak on the device; the same memory as the host's where there is no GPU."""
    host_bytes: int
    """Peak of the job's process in main memory."""
    disk_bytes: int
    """In the artifact store, at the end."""
    seconds: Mapping[str, float]
    """Stage → seconds."""

    @property
    def total_seconds(self) -> float:
        """Of all stages."""
        return sum(self.seconds.values())


def compute_cost(
    spec: CorrectionSpec,
    shape: ModelShape,
    machine: Machine,
    behaviours: Sequence[SetSize],
) -> Cost:
    """Return what a correction takes on a machine.

    `behaviours` are the sizes of the behaviours' prompt sets, in their order.
    """
    seconds = _Work(spec, shape, machine, behaviours).time_stages()
    on_gpu = machine.device_bytes > 0
    tokens = PASS_TOKENS if on_gpu else CPU_PASS_TOKENS
    device = _count_device_bytes(spec, shape, behaviours, tokens)
    weights = shape.count_bytes(spec.dtype)
    return Cost(
        device_bytes=device,
        host_bytes=PROCESS_BYTES + (weights if on_gpu else device),
        disk_bytes=_count_disk_bytes(spec, shape, behaviours),
        seconds=seconds,
    )


class _Work:
    """Token passes of each stage, as seconds."""

    def __init__(
        self,
        spec: CorrectionSpec,
        shape: ModelShape,
        machine: Machine,
        behaviours: Sequence[SetSize],
    ) -> None:
        self._spec = spec
        self._shape = shape
        self._machine = machine
        self._sets = list(zip(spec.behaviours, behaviours, strict=True))
        self._protected = PROTECTED_TOKENS if spec.protect is not None else 0
        self._abilities = ABILITY_TOKENS if spec.gates.abilities is not None else 0

    def time_stages(self) -> dict[str, float]:
        """Return stage → seconds."""
        return {
            Stage.PREPARE: self._generate(self._screened + self._measured + self._explored),
            Stage.ATTRIBUTE: self._attribute() * len(self._spec.attribution.granularities),
            Stage.SEARCH: self._rounds * self._round() + self._weigh(),
            Stage.VALIDATE: self._validate(),
            Stage.PACKAGE: 1.0,
        }

    @property
    def _rounds(self) -> int:
        search = self._spec.search
        each = search.rounds or len(self._list_amounts()) or ROUNDS
        return each * len(self._spec.attribution.granularities) + (search.trials or 0)

    def _list_amounts(self) -> list[int]:
        amounts = self._spec.search.amounts
        return amounts if isinstance(amounts, list) else []

    @property
    def _screened(self) -> float:
        return sum(own.count * _count_tokens(behaviour, own) for behaviour, own in self._sets)

    @property
    def _measured(self) -> float:
        return TRIGGERING_SHARE * self._screened

    @property
    def _explored(self) -> float:
        return sum(
            EXPLORING_DRAWS * TRIGGERING_SHARE / 2 * own.count * _count_tokens(behaviour, own)
            for behaviour, own in self._sets
            if behaviour.kind is not BehaviourKind.REPETITION
        )

    def _attribute(self) -> float:
        """Undesired responses forwards and backwards, general text with two questions."""
        general = self._spec.attribution.reference_tokens + self._protected
        return self._pass(3 * self._measured / 2 + 5 * general)

    def _round(self) -> float:
        """Tuning prompts answered, what is left explained, and every text read once."""
        tuned = self._measured / 2
        return self._generate(tuned) + self._pass(3 * tuned + TUNING_TOKENS + self._protected)

    def _weigh(self) -> float:
        """The rows by which candidates are weighed together, drawn once."""
        return self._pass(2 * FISHER_TOKENS)

    def _validate(self) -> float:
        held_out = self._measured / 2
        states = 2 + 1 / 3
        return self._generate((1 + CONTROLS) * held_out) + self._pass(
            2 * TEXT_TOKENS + states * self._abilities
        )

    def _generate(self, tokens: float) -> float:
        """Seconds to generate: bound by products, or by reading the weights once a step."""
        steps = tokens / GENERATED_AT_ONCE
        reading = steps * self._shape.count_bytes(self._spec.dtype) / self._machine.bytes_per_second
        return max(self._compute(tokens) / GENERATION_SHARE, reading)

    def _pass(self, tokens: float) -> float:
        return self._compute(tokens) / PASS_SHARE

    def _compute(self, tokens: float) -> float:
        machine = self._machine
        flops = machine.flops
        if self._spec.dtype is ComputeDtype.BFLOAT16:
            flops = machine.low_precision_flops or flops
        return 2 * tokens * (self._shape.active_weights + self._shape.head_weights) / flops


def _count_tokens(behaviour: BehaviourSpec, own: SetSize) -> float:
    """Return the tokens of one prompt's responses, prompts included."""
    decoding = behaviour.decoding
    return decoding.samples * (own.mean_tokens + decoding.max_new_tokens)


def _count_device_bytes(
    spec: CorrectionSpec, shape: ModelShape, behaviours: Sequence[SetSize], pass_tokens: int
) -> int:
    """Return weights, and the largest of what is beside them at one time.

    `pass_tokens` are the tokens of a batch that goes backwards.
    """
    longest = max(
        own.mean_tokens + behaviour.decoding.max_new_tokens
        for behaviour, own in zip(spec.behaviours, behaviours, strict=True)
    )
    generated = int(GENERATED_AT_ONCE * longest)
    generating = shape.count_cache_bytes(generated, spec.dtype) + (
        4 * 4 * GENERATED_AT_ONCE * shape.vocabulary
    )
    item = DTYPE_BYTES[spec.dtype]
    kept = pass_tokens * shape.hidden * item * KEPT_ACTIVATIONS * shape.layers // 2
    passing = kept + 4 * 512 * shape.vocabulary
    if Granularity.WEIGHT in spec.attribution.granularities:
        passing += _count_sums_bytes(spec, shape)
    return shape.count_bytes(spec.dtype) + max(generating, passing)


def _count_sums_bytes(spec: CorrectionSpec, shape: ModelShape) -> int:
    """Return the sums of one segment's weights: of each behaviour, and two of general text."""
    questions = len(spec.behaviours) + 2
    layer = 4 * questions * shape.linear_weights // shape.layers
    return max(layer, int(SUMS_SHARE * shape.count_bytes(spec.dtype)))


def _count_largest_amount(spec: CorrectionSpec, shape: ModelShape) -> int:
    """Return the largest number of single weights that the search may prune."""
    amounts = spec.search.amounts
    if isinstance(amounts, dict):
        amounts = amounts.get(Granularity.WEIGHT)
    if amounts:
        return max(amounts)
    return int(DEFAULT_AMOUNT_SHARE * shape.linear_weights)


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
        pool = _count_largest_amount(spec, shape) * (POOL_SHARE * 24 + PATCH_BYTES)
    return 4 * texts + pool + 4 * shape.neurons * 8 + 5 * 2**20
