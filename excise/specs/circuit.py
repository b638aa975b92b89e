"""The spec of a circuit job."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from excise.names import (
    Attributor,
    BuiltInTask,
    CircuitAblation,
    CircuitOrder,
    Granularity,
    JobKind,
    Stage,
)
from excise.specs.common import JobSpecBase, OneOf, PromptSetUse, Storable, check_distinct

BUILT_IN_TASKS: tuple[str, ...] = tuple(task.value for task in BuiltInTask)
CIRCUIT_SPLITS = 3
"""Rows are split into equal parts: to find the circuit, to choose its size, and to judge it."""
MIN_CIRCUIT_ROWS = 4 * CIRCUIT_SPLITS

_PROMPT_SET = re.compile(r"ps_[0-9a-f]{24}")


def _check_task(task: str) -> str:
    """Return `task` if it is built in or a prompt set's id; raises `ValueError` otherwise."""
    if task not in BUILT_IN_TASKS and not _PROMPT_SET.fullmatch(task):
        raise ValueError(
            f"must be one of: {', '.join(BUILT_IN_TASKS)}, or the id of a prompt set of rows. "
            "Upload rows with POST /v1/prompt-sets?format=rows, or give excise.find_circuit a list "
            "of them."
        )
    return task


def _check_shares(shares: list[float]) -> list[float]:
    """Return `shares` if they ascend without repeats; raises `ValueError` otherwise."""
    if any(later <= earlier for earlier, later in pairwise(shares)):
        raise ValueError("must be ascending without repeats. Sort it and remove the repeats.")
    return shares


Share = Annotated[float, Field(gt=0, lt=1)]


class CircuitSpec(JobSpecBase):
    """A circuit job: the components that carry a task, and how much of it they keep."""

    stages: ClassVar[Mapping[str, float]] = {
        Stage.PREPARE: 0.03,
        Stage.DISCOVER: 0.90,
        Stage.VALIDATE: 0.05,
        Stage.PACKAGE: 0.02,
    }
    """Each stage's share of the time, computed from the passes over the model with defaults."""

    kind: Literal[JobKind.CIRCUIT]
    task: Annotated[str, Field(max_length=64), Storable, AfterValidator(_check_task)]
    """`ioi`, `greater_than`, or a prompt set of rows with clean, corrupted, answer and wrong."""
    granularity: OneOf[Granularity] = Granularity.NEURON
    attributors: Annotated[
        list[OneOf[Attributor]],
        Field(min_length=1, max_length=7, fail_fast=True),
        AfterValidator(check_distinct),
    ] = [  # noqa: RUF012 - pydantic copies it
        Attributor.ATTNLRP,
        Attributor.GRADIENT_X_INPUT,
        Attributor.WANDA,
        Attributor.RANDOM,
    ]
    """The job's circuit is the first one's; the others are for comparison."""
    order: OneOf[CircuitOrder] | None = None
    """Largest signed relevance first, or largest magnitude; by default `chosen_order`."""
    ablation: OneOf[CircuitAblation] | None = None
    """What replaces everything outside a circuit; by default `chosen_ablation`."""
    shares: (
        Annotated[
            list[Share],
            Field(min_length=1, max_length=32, fail_fast=True),
            AfterValidator(_check_shares),
        ]
        | None
    ) = None
    """Circuit sizes to try, as shares of all components; by default those of MIB."""
    threshold: float = Field(default=0.9, gt=0, le=1)
    """Share of the whole model's metric that the circuit must keep, on rows not used before."""
    max_share: float = Field(default=0.5, gt=0, lt=1)
    """Largest share of all components that still counts as a circuit."""
    rows: int = Field(default=72, ge=MIN_CIRCUIT_ROWS, le=3000)
    """Number of rows used, in three equal parts."""

    def list_prompt_sets(self) -> Iterator[PromptSetUse]:
        """Yield the set of the task's rows, unless the task is built in."""
        if self.task not in BUILT_IN_TASKS:
            yield PromptSetUse("task", self.task, MIN_CIRCUIT_ROWS, is_rows=True)

    @property
    def chosen_order(self) -> CircuitOrder:
        """The given order, or the one that gives smaller circuits (docs/guides/circuits.md)."""
        if self.order is not None:
            return self.order
        if self.chosen_ablation == CircuitAblation.COUNTERFACTUAL:
            return CircuitOrder.SIGNED
        return CircuitOrder.ABSOLUTE

    @property
    def chosen_ablation(self) -> CircuitAblation:
        """The given ablation, or else MIB's; for single weights, zero."""
        if self.ablation is not None:
            return self.ablation
        if self.granularity == Granularity.WEIGHT:
            return CircuitAblation.ZERO
        return CircuitAblation.COUNTERFACTUAL

    @model_validator(mode="after")
    def _check_ablation(self) -> Self:
        """Raise `ValueError` for an ablation that is impossible for single weights."""
        if self.granularity == Granularity.WEIGHT and self.chosen_ablation != CircuitAblation.ZERO:
            raise ValueError(
                "ablation must be zero for the granularity weight: a weight has no activation to "
                "put in its place. Set ablation to zero."
            )
        return self
