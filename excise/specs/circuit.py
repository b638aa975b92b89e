"""The spec of a circuit job."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from excise.specs.common import (
    AttributorName,
    GranularityName,
    JobSpecBase,
    PromptSetUse,
    Storable,
    check_distinct,
)

BUILT_IN_TASKS = ("ioi", "greater_than")
CIRCUIT_SPLITS = 3
"""Rows are divided evenly: to find the circuit, to choose its size, and to judge it."""
MIN_CIRCUIT_ROWS = 4 * CIRCUIT_SPLITS

_PROMPT_SET = re.compile(r"ps_[0-9a-f]{24}")


def _check_task(task: str) -> str:
    """`task`, if it names a built-in task or looks like a prompt set's id; else `ValueError`."""
    if task not in BUILT_IN_TASKS and not _PROMPT_SET.fullmatch(task):
        raise ValueError(
            f"must be one of: {', '.join(BUILT_IN_TASKS)}, or the id of a prompt set of rows. "
            "Upload rows with POST /v1/prompt-sets?format=rows."
        )
    return task


def _check_shares(shares: list[float]) -> list[float]:
    """`shares`, if every entry is larger than the one before; raises `ValueError` otherwise."""
    if any(later <= earlier for earlier, later in pairwise(shares)):
        raise ValueError("must be ascending without repeats. Sort it and remove the repeats.")
    return shares


Share = Annotated[float, Field(gt=0, lt=1)]


AblationName = Literal["counterfactual", "mean", "zero"]


class CircuitSpec(JobSpecBase):
    """A circuit job: the components that carry a task, and how much of it they keep."""

    stages: ClassVar[Mapping[str, float]] = {
        "prepare": 0.03,
        "discover": 0.90,
        "validate": 0.05,
        "package": 0.02,
    }
    """Shares counted from the passes over the model that the defaults ask for."""

    kind: Literal["circuit"]
    task: Annotated[str, Field(max_length=64), Storable, AfterValidator(_check_task)]
    """`ioi`, `greater_than`, or a prompt set of rows with clean, corrupted, answer and wrong."""
    granularity: GranularityName = "neuron"
    attributors: Annotated[
        list[AttributorName], Field(min_length=1, max_length=7), AfterValidator(check_distinct)
    ] = ["attnlrp", "gradient_x_input", "wanda", "random"]  # noqa: RUF012 - pydantic copies it
    """The first one's circuit is the job's; the others stand beside it."""
    order: Literal["signed", "absolute"] | None = None
    """Largest signed relevance first, or largest magnitude; `chosen_order` when none is given."""
    ablation: AblationName | None = None
    """What everything outside a circuit is replaced by; `chosen_ablation` when none is given."""
    shares: (
        Annotated[list[Share], Field(min_length=1, max_length=32), AfterValidator(_check_shares)]
        | None
    ) = None
    """Circuit sizes tried, as shares of all components; MIB's when none are given."""
    threshold: float = Field(default=0.9, gt=0, le=1)
    """Share of the whole model's metric the circuit must keep, on rows nothing was chosen by."""
    max_share: float = Field(default=0.5, gt=0, lt=1)
    """Largest share of all components that still counts as a circuit."""
    rows: int = Field(default=72, ge=MIN_CIRCUIT_ROWS, le=3000)
    """Rows used, in three even parts."""

    def list_prompt_sets(self) -> Iterator[PromptSetUse]:
        """The task's rows, unless the task is built in."""
        if self.task not in BUILT_IN_TASKS:
            yield PromptSetUse("task", self.task, MIN_CIRCUIT_ROWS, is_rows=True)

    @property
    def chosen_order(self) -> Literal["signed", "absolute"]:
        """The order asked for, else what gave the smaller circuits (docs/guides/circuits.md)."""
        if self.order is not None:
            return self.order
        return "signed" if self.chosen_ablation == "counterfactual" else "absolute"

    @property
    def chosen_ablation(self) -> AblationName:
        """The ablation asked for, else MIB's, or for single weights the one they can take."""
        if self.ablation is not None:
            return self.ablation
        return "zero" if self.granularity == "weight" else "counterfactual"

    @model_validator(mode="after")
    def _check_ablation(self) -> Self:
        """Refuse what cannot be done to single weights."""
        if self.granularity == "weight" and self.chosen_ablation != "zero":
            raise ValueError(
                "ablation must be zero for the granularity weight: a weight has no activation to "
                "put in its place. Set ablation to zero."
            )
        return self
