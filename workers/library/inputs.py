"""The inputs of a call: an opened checkpoint, and sets that were passed as lists."""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path

from excise.intake.prompt_sets import Prompt
from excise.specs import CircuitSpec, CompressionSpec, CorrectionSpec
from workers.correction.behaviour import Behaviour
from workers.fetching.detoxify import find_detoxify
from workers.library.checkpoint import OpenCheckpoint
from workers.library.sets import Sets
from workers.models.devices import choose_device
from workers.models.loaded import LoadedModel
from workers.scorers.build import ScorerSurroundings
from workers.stages.behaviours import build_behaviour
from workers.stages.inputs import (
    CircuitInputs,
    CompressionInputs,
    CorrectionInputs,
    Inputs,
    SetInfo,
)


class CallInputs(Inputs):
    """Inputs common to all kinds of calls."""

    def __init__(self, checkpoint: OpenCheckpoint, sets: Sets) -> None:
        self._checkpoint = checkpoint
        self._sets = sets

    @property
    def checkpoint_path(self) -> Path:
        """The checkpoint's folder."""
        return self._checkpoint.folder

    @property
    def model_sha256(self) -> str:
        """The hash of the checkpoint's weights."""
        return self._checkpoint.sha256

    @property
    def base(self) -> LoadedModel:
        """The base model."""
        return self._checkpoint.loaded

    @property
    def task_data(self) -> Path | None:
        """The folder `$EXCISE_TASK_DATA` with this machine's own rows and texts, if it is set."""
        return _find_task_data()

    def chats(self, prompt_set_id: str) -> list[Prompt]:
        """Return the prompts of a set."""
        return self._sets.chats(prompt_set_id)

    def rows(self, prompt_set_id: str) -> list[str]:
        """Return the JSON lines of a set of rows."""
        return self._sets.rows(prompt_set_id)

    def prompt_set(self, prompt_set_id: str) -> SetInfo:
        """Return the name, hash and format of a set."""
        return self._sets.describe(prompt_set_id)

    def find_task_file(self, task: str) -> Path | None:
        """Return this machine's file with rows of a zero-shot task, if there is one."""
        return find_task_file(task)


class CorrectionCallInputs(CallInputs, CorrectionInputs):
    """Inputs of `correct`."""

    def __init__(
        self, checkpoint: OpenCheckpoint, sets: Sets, spec: CorrectionSpec, resources: ExitStack
    ) -> None:
        super().__init__(checkpoint, sets)
        self.spec = spec
        self._resources = resources

    @property
    def segments(self) -> int | None:
        """None: as many segments as the free memory requires."""
        return None

    @cached_property
    def behaviours(self) -> tuple[Behaviour, ...]:
        """The behaviours with their scorers loaded. Raises `ScorerError`."""
        surroundings = describe_own_surroundings()
        return tuple(
            build_behaviour(behaviour, surroundings, self._resources)
            for behaviour in self.spec.behaviours
        )


class CircuitCallInputs(CallInputs, CircuitInputs):
    """Inputs of `find_circuit`."""

    def __init__(self, checkpoint: OpenCheckpoint, sets: Sets, spec: CircuitSpec) -> None:
        super().__init__(checkpoint, sets)
        self.spec = spec


class CompressionCallInputs(CallInputs, CompressionInputs):
    """Inputs of `compress`."""

    def __init__(self, checkpoint: OpenCheckpoint, sets: Sets, spec: CompressionSpec) -> None:
        super().__init__(checkpoint, sets)
        self.spec = spec


def find_task_file(task: str) -> Path | None:
    """Return this machine's file with rows of a zero-shot task, if there is one."""
    folder = _find_task_data()
    path = None if folder is None else folder / f"task_{task}.jsonl"
    return path if path is not None and path.is_file() else None


def _find_task_data() -> Path | None:
    folder = os.environ.get("EXCISE_TASK_DATA")
    return Path(folder) if folder else None


def describe_own_surroundings() -> ScorerSurroundings:
    """Return the environment for scorers on this machine, in which no host is trusted."""
    roots = os.environ.get("EXCISE_SCORER_ROOTS", "").split(os.pathsep)
    folders = [Path(root).expanduser() for root in roots if root]
    return ScorerSurroundings(
        find_detoxify=partial(find_detoxify, roots=folders),
        device=choose_device("auto"),
        environment=os.environ,
    )
