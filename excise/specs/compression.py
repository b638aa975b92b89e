"""The spec of a compression job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from excise.names import (
    READ_NO_SAMPLES,
    Attributor,
    JobKind,
    SparsityPattern,
    Stage,
    Statistic,
    ZeroShotTask,
)
from excise.specs.common import (
    JobSpecBase,
    OneOf,
    PerplexitySpec,
    PromptSetId,
    PromptSetUse,
    ServerTask,
    SpecModel,
)

DEFAULT_SPARSITY = 0.5
MIN_TASK_ROWS = 2


class CalibrationSpec(SpecModel):
    """The text on which scores are computed."""

    prompts: PromptSetId
    samples: int = Field(default=128, ge=1, le=8192)
    tokens: int = Field(default=256, ge=16, le=4096)
    """Tokens per sample."""


class ZeroShotSpec(SpecModel):
    """A zero-shot task to measure before and after."""

    name: OneOf[ZeroShotTask]
    rows: PromptSetId | None = None
    """A prompt set of rows; by default, the server's own copy of the task."""
    limit: int | None = Field(default=200, ge=MIN_TASK_ROWS, le=20_000)
    """Number of questions drawn by the seed; null takes all."""


def list_task_rows(field: str, tasks: Sequence[ZeroShotSpec]) -> Iterator[PromptSetUse]:
    """Yield the sets of rows that the tasks in `field` name."""
    for index, task in enumerate(tasks):
        if task.rows is not None:
            yield PromptSetUse(f"{field}[{index}].rows", task.rows, MIN_TASK_ROWS, is_rows=True)


def list_tasks_without_rows(field: str, tasks: Sequence[ZeroShotSpec]) -> Iterator[ServerTask]:
    """Yield the tasks in `field` that name no rows."""
    for index, task in enumerate(tasks):
        if task.rows is None:
            yield ServerTask(f"{field}[{index}]", task.name)


class CompressionBudgetSpec(SpecModel):
    """How much damage the compression may do; without a limit, every finished job passes."""

    perplexity_increase: float | None = Field(default=None, ge=0, le=1e6)
    """Largest relative increase of perplexity: 0.5 is 50 %."""


def _check_method(method: Attributor) -> Attributor:
    """Return `method` if it ranks the weights of every row; raises `ValueError` otherwise."""
    if method == Attributor.CP_LRP:
        raise ValueError(
            "cp_lrp gives the weights of queries and keys no relevance, so their rows cannot be "
            "ranked. Use attnlrp."
        )
    return method


def _check_tasks(tasks: list[ZeroShotSpec]) -> list[ZeroShotSpec]:
    """Return `tasks` if none is named twice; raises `ValueError` otherwise."""
    if len({task.name for task in tasks}) < len(tasks):
        raise ValueError("names a task twice. Remove the repeats.")
    return tasks


class CompressionSpec(JobSpecBase):
    """A compression job: the same share of every row of every linear layer set to zero."""

    stages: ClassVar[Mapping[str, float]] = {
        Stage.PREPARE: 0.25,
        Stage.COMPRESS: 0.45,
        Stage.VALIDATE: 0.25,
        Stage.PACKAGE: 0.05,
    }
    """Each stage's share of the time, computed from the passes over the model with defaults."""

    kind: Literal[JobKind.COMPRESSION]
    method: Annotated[OneOf[Attributor], AfterValidator(_check_method)] = Attributor.ATTNLRP
    """The attributor that scores weights (any but `cp_lrp`); the smallest scores are removed."""
    statistic: OneOf[Statistic] = Statistic.MEAN_ABSOLUTE
    """The mean over calibration tokens that ranks the weights: of the magnitude of relevance, of
    signed relevance (then its magnitude; the paper's, which is ruinous with few samples), or of its
    square. `wanda`, `magnitude` and `random` have only one statistic and ignore this."""
    pattern: OneOf[SparsityPattern] = SparsityPattern.UNSTRUCTURED
    sparsity: float | None = Field(default=None, gt=0, lt=1)
    """Share of every row to remove, for the pattern unstructured only; by default 0.5."""
    calibration: CalibrationSpec
    sequential: bool = False
    """Whether each block is scored on the model with all earlier blocks already pruned."""
    perplexity: PerplexitySpec
    tasks: Annotated[
        list[ZeroShotSpec], Field(max_length=7, fail_fast=True), AfterValidator(_check_tasks)
    ] = []  # noqa: RUF012 - pydantic copies it
    budget: CompressionBudgetSpec = CompressionBudgetSpec()

    def list_prompt_sets(self) -> Iterator[PromptSetUse]:
        """Yield the corpus, the calibration text and the tasks' rows."""
        yield PromptSetUse("perplexity.prompts", self.perplexity.prompts, 1)
        yield PromptSetUse("calibration.prompts", self.calibration.prompts, 1)
        yield from list_task_rows("tasks", self.tasks)

    def list_server_tasks(self) -> Iterator[ServerTask]:
        """Yield the tasks without rows."""
        return list_tasks_without_rows("tasks", self.tasks)

    @property
    def target_sparsity(self) -> float:
        """The share of weights to remove, for any pattern."""
        return DEFAULT_SPARSITY if self.sparsity is None else self.sparsity

    @model_validator(mode="after")
    def _check_fit(self) -> Self:
        """Raise `ValueError` for fields that contradict each other."""
        if self.pattern != SparsityPattern.UNSTRUCTURED and self.sparsity is not None:
            raise ValueError(
                f"sparsity is fixed by the pattern {self.pattern}. Remove sparsity, or use the "
                "pattern unstructured."
            )
        if self.sequential and self.method in READ_NO_SAMPLES:
            raise ValueError(
                f"sequential changes nothing for {self.method}, which reads no samples. Set it to "
                "false."
            )
        return self
