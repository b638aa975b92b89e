"""The inputs of any kind of work: a checkpoint, the sets that its spec names, and the spec."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

from excise.intake.prompt_sets import Prompt
from excise.names import Attributor, Granularity
from excise.specs import CircuitSpec, CompressionSpec, CorrectionSpec
from excise.specs.compression import ZeroShotSpec
from workers.correction.behaviour import Behaviour
from workers.correction.budget import Budget
from workers.models.loaded import LoadedModel
from workers.stages.context import InvalidInputError


class SetInfo(NamedTuple):
    """What report and manifest say about a set of prompts or rows."""

    name: str
    sha256: str
    format: str


class Inputs(ABC):
    """The inputs of any kind of work; large ones are loaded on first use.

    Sets are identified by their ids in the spec.
    """

    @property
    @abstractmethod
    def checkpoint_path(self) -> Path:
        """The checkpoint's folder; its files are checked before anything is loaded from them."""

    @property
    @abstractmethod
    def model_sha256(self) -> str:
        """The hash of the checkpoint's weights. Raises `CheckpointError`."""

    @property
    @abstractmethod
    def base(self) -> LoadedModel:
        """The unchanged model of the checkpoint.

        Raises `CheckpointError` and `UnsupportedArchitectureError`.
        """

    @property
    @abstractmethod
    def task_data(self) -> Path | None:
        """The folder with this machine's own rows and texts, if it has one."""

    @abstractmethod
    def chats(self, prompt_set_id: str) -> list[Prompt]:
        """Return the prompts of a set; those that are chats stay chats."""

    @abstractmethod
    def rows(self, prompt_set_id: str) -> list[str]:
        """Return the rows of a set as JSON lines."""

    @abstractmethod
    def prompt_set(self, prompt_set_id: str) -> SetInfo:
        """Return name, hash and format of a set."""

    @abstractmethod
    def find_task_file(self, task: str) -> Path | None:
        """Return this machine's own rows of a zero-shot task, or None."""

    def component_counts(self, granularity: Granularity) -> dict[str, int]:
        """Return module → number of its components."""
        return self.base.count_components(granularity)

    def prompts(self, prompt_set_id: str) -> list[str]:
        """Return the texts of a set."""
        return [prompt.text for prompt in self.chats(prompt_set_id)]

    def task_rows(self, task: ZeroShotSpec) -> tuple[list[str], str]:
        """Return the JSON lines of a zero-shot task, and a name for them to use in messages.

        Raises `InvalidInputError` if there are none.
        """
        if task.rows is not None:
            return self.rows(task.rows), self.prompt_set(task.rows).name
        path = self.find_task_file(task.name)
        if path is None:
            raise InvalidInputError(
                f"this worker has no rows of {task.name}. Upload them and name the set in the task."
            )
        return path.read_text(encoding="utf-8").split("\n"), path.name

    def hash_task_rows(self, task: ZeroShotSpec) -> str:
        """Return the SHA-256 of a zero-shot task's rows."""
        if task.rows is not None:
            return self.prompt_set(task.rows).sha256
        lines, _ = self.task_rows(task)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class CorrectionInputs(Inputs):
    """Inputs of a correction."""

    spec: CorrectionSpec

    @property
    @abstractmethod
    def segments(self) -> int | None:
        """Number of segments of layers in which relevance of single weights is computed.

        None means that it follows from the available memory.
        """

    @property
    @abstractmethod
    def behaviours(self) -> tuple[Behaviour, ...]:
        """The behaviours, with their scorers loaded. Raises `ScorerError`."""

    @property
    def attributor(self) -> Attributor:
        """The attributor that computes relevance."""
        return Attributor(self.spec.attribution.attributor)

    @property
    def granularities(self) -> tuple[Granularity, ...]:
        """The granularities that may be pruned."""
        asked = tuple(map(Granularity, self.spec.attribution.granularities))
        if self.spec.attribution.granularity != "auto":
            return asked
        return tuple(kind for kind in asked if kind in self.base.family.granularities)

    @property
    def budget(self) -> Budget:
        """The limits on the correction's damage."""
        limits = self.spec.budget
        return Budget(limits.perplexity_increase, limits.kl_mean)


class CircuitInputs(Inputs):
    """Inputs of the discovery of a circuit."""

    spec: CircuitSpec


class CompressionInputs(Inputs):
    """Inputs of a compression."""

    spec: CompressionSpec
