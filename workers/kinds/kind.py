"""The definition of a kind of job: how a worker runs it, and what its errors mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from excise.reports.common import JobReport
from excise.specs.common import JobSpecBase
from workers.attribution.accumulation import NonFiniteRelevanceError
from workers.families import UnsupportedArchitectureError, UnsupportedGranularityError
from workers.models.checkpoints import CheckpointError
from workers.models.encoding import ChatTemplateError
from workers.pruning.score_stream import ScoreError
from workers.running.context import JobContext, TaskContext
from workers.stages.context import ShardedWork

Spec = TypeVar("Spec", bound=JobSpecBase)

INVALID_INPUT: tuple[type[Exception], ...] = (
    ChatTemplateError,
    CheckpointError,
    NonFiniteRelevanceError,
    ScoreError,
    UnsupportedArchitectureError,
    UnsupportedGranularityError,
)
"""Errors that mean, in any kind of job, that its own input is at fault."""


@dataclass(frozen=True)
class Kind(Generic[Spec]):
    """One kind of job. Its spec, including its stages, is listed in the table of `excise.specs`."""

    spec: type[Spec]
    run: Callable[[JobContext, Spec], JobReport]
    """Runs the job's stages and returns its report, whose verdict ends the job."""
    build_sharded_work: Callable[[TaskContext, Spec, bytes], ShardedWork] | None = None
    """Builds the work of the stage that is cut into shards, on any worker, from the artifact on
    which the stage depends. None if no stage is cut into shards.
    """
    invalid_input: tuple[type[Exception], ...] = INVALID_INPUT
    """Errors raised by the engine if the job's own input is at fault; their messages give the
    remedy.
    """
