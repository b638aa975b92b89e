"""What a correction costs on a machine: its footprint, and the seconds of each stage.

The time follows from the number of tokens that pass through the model. A forward pass costs two
operations per weight and token, a backward pass twice that. The constants below were fitted to
recorded jobs on SmolLM2-135M (benchmarks/RESULTS.md: the demo with eight rounds, in float32 42,
134, 779 and 205 seconds, in bfloat16 30, 127, 604 and 113) and are right within a factor of two,
not better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from excise.estimates.machine import Machine
from excise.estimates.memory import GENERATED_AT_ONCE, REFERENCE_ROWS, Footprint, count_footprint
from excise.estimates.prompts import (
    JobSets,
    count_attributed_tokens,
    count_corpus_tokens,
    count_response_tokens,
)
from excise.estimates.shape import ModelShape
from excise.names import BehaviourKind, ComputeDtype, Stage
from excise.specs.correction import CorrectionSpec

GENERATION_SHARE = 0.4
"""Share of the machine's speed that generation reaches; measured 0.45 in float32 on one core."""

PASS_SHARE = 0.7
"""The same for passes over whole texts; measured 0.72."""

CPU_PASS_GAIN, CPU_GENERATION_GAIN, CPU_RELEVANCE_GAIN = 2.0, 1.4, 1.2
"""Largest factors by which bfloat16 makes passes over text, generation and passes with relevance
faster on a CPU, whatever its matrix products gain, because the rest does not gain: with AMX,
products of 2048² took a fifth of the time of float32; of the demo's job, the passes of validation
took half and answers seven tenths; attribution of single weights took three quarters and rows of
protected texts four fifths (`benchmarks/low_precision.py`, 2026-11-30)."""

ROUNDS = 6
"""Number of rounds of a search that does not give one."""

TRIGGERING_SHARE = 0.5
"""Share of the prompts that show the behaviour; these are measured again, and half of them tune."""

EXPLORING_DRAWS = 3
"""Extra draws of tuning prompts for behaviours whose single tokens are explained."""

CONTROLS = 3
"""Number of random selections with which validation compares the correction."""

LEARNED_TOKENS = 20_000
"""Tokens of the built-in slices by which a search ranks: 19,500 with SmolLM2's tokenizer, counted.
They are explained with the reference text, and read twice to weigh the candidates."""

LEARNED_AGAIN = 0.1
"""Share of them that a round reads again, for slices that a trial lost."""

TUNED_TOKENS = 26_000
"""Tokens of the built-in slices on which each trial is measured: 25,800, counted likewise."""

ABILITY_TOKENS = 40_000
"""Tokens of one measurement of all slices: 39,470, counted likewise."""

ABILITY_STATES = 2.2
"""Measurements of all slices: base, correction, and a fifth of the items for the control."""

TUNING_TOKENS = 2_560
"""Tokens of reference text and corpus on which each round is measured."""

TEXT_TOKENS = 5_000
"""Tokens of held-out text and of responses to reference prompts that validate each state, besides
the corpus."""

PIECE_TOKENS = 32
"""Tokens of the piece of text behind each of the general cost's rows
(workers/attribution/fisher.py)."""

FISHER_TOKENS = REFERENCE_ROWS * PIECE_TOKENS
"""Tokens of these rows, each of which is a backward pass."""


@dataclass(frozen=True)
class Cost:
    """What a job needs."""

    footprint: Footprint
    seconds: Mapping[str, float]
    """Stage → its duration in seconds."""

    @property
    def total_seconds(self) -> float:
        """Duration of all stages together."""
        return sum(self.seconds.values())


def compute_cost(
    spec: CorrectionSpec,
    shape: ModelShape,
    machine: Machine,
    sets: JobSets,
) -> Cost:
    """Return what a correction with prompt sets of these sizes needs on a machine."""
    return Cost(
        footprint=count_footprint(spec, shape, sets.behaviours, on_gpu=machine.device_bytes > 0),
        seconds=_Work(spec, shape, machine, sets).time_stages(),
    )


class _Work:
    """Token passes of each stage, converted to seconds."""

    def __init__(
        self,
        spec: CorrectionSpec,
        shape: ModelShape,
        machine: Machine,
        sets: JobSets,
    ) -> None:
        self._spec = spec
        self._shape = shape
        self._machine = machine
        self._sets = list(zip(spec.behaviours, sets.behaviours, strict=True))
        self._attributed = count_attributed_tokens(spec, sets.reference)
        self._corpus = count_corpus_tokens(spec, sets.perplexity)
        self._learned = LEARNED_TOKENS if spec.protect is not None else 0
        self._tuned = TUNED_TOKENS if spec.protect is not None else 0
        self._abilities = ABILITY_TOKENS if spec.gates.abilities is not None else 0

    def time_stages(self) -> dict[str, float]:
        """Return stage → its duration in seconds."""
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
        return sum(
            own.count * count_response_tokens(behaviour, own) for behaviour, own in self._sets
        )

    @property
    def _measured(self) -> float:
        return TRIGGERING_SHARE * self._screened

    @property
    def _explored(self) -> float:
        return sum(
            EXPLORING_DRAWS
            * TRIGGERING_SHARE
            / 2
            * own.count
            * count_response_tokens(behaviour, own)
            for behaviour, own in self._sets
            if behaviour.kind is not BehaviourKind.REPETITION
        )

    def _attribute(self) -> float:
        """Return the seconds for undesired responses and for general text.

        A token of the former takes a forward and a backward pass (3), one of the latter a forward
        pass and a backward pass for each of two questions (5).
        """
        general = self._attributed + self._learned
        return self._explain(3 * self._measured / 2 + 5 * general)

    def _round(self) -> float:
        """Return the seconds to answer tuning prompts, explain the rest and read all texts once."""
        tuned = self._measured / 2
        return (
            self._generate(tuned)
            + self._pass(TUNING_TOKENS + self._tuned)
            + self._explain(3 * (tuned + LEARNED_AGAIN * self._learned))
        )

    def _weigh(self) -> float:
        """Return the seconds for the rows by which candidates are weighed together, drawn once.

        Rows of reference text are backward passes (2); protected samples are passed forwards and
        backwards twice (6).
        """
        return self._explain(2 * FISHER_TOKENS + 6 * self._learned)

    def _validate(self) -> float:
        held_out = self._measured / 2
        return self._generate((1 + CONTROLS) * held_out) + self._pass(
            2 * (TEXT_TOKENS + self._corpus) + ABILITY_STATES * self._abilities
        )

    def _generate(self, tokens: float) -> float:
        """Return the seconds to generate: bound by products or by reading the weights each step."""
        steps = tokens / GENERATED_AT_ONCE
        reading = steps * self._shape.count_bytes(self._spec.dtype) / self._machine.bytes_per_second
        return max(self._compute(tokens, CPU_GENERATION_GAIN) / GENERATION_SHARE, reading)

    def _pass(self, tokens: float) -> float:
        return self._compute(tokens, CPU_PASS_GAIN) / PASS_SHARE

    def _explain(self, tokens: float) -> float:
        """Return the seconds of passes that show relevance; a backward pass counts as two."""
        return self._compute(tokens, CPU_RELEVANCE_GAIN) / PASS_SHARE

    def _compute(self, tokens: float, cpu_gain: float) -> float:
        machine = self._machine
        flops = machine.flops
        if self._spec.dtype is ComputeDtype.BFLOAT16:
            low = machine.low_precision_flops or flops
            flops = min(low, cpu_gain * flops) if machine.device == "cpu" else low
        return 2 * tokens * (self._shape.active_weights + self._shape.head_weights) / flops
