"""The inputs of a job: its checkpoint, loaded once per attempt, and its prompt sets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from excise.intake.model_sources import ModelSourceError
from excise.intake.prompt_sets import Prompt
from excise.specs import CircuitSpec, CompressionSpec, CorrectionSpec
from excise.specs.common import JobSpecBase
from service.errors import InvalidRequestError
from service.jobs.inputs import load_prompt_set_info, load_prompts, load_rows
from workers.correction.behaviour import Behaviour
from workers.fetching.checkpoints import find_checkpoint_folder
from workers.models.checkpoints import CheckpointError, load_checkpoint, require_tokenizer
from workers.models.devices import DTYPES
from workers.models.loaded import LoadedModel
from workers.pruning.safetensors_files import SafetensorsFormatError, compute_checkpoint_sha256
from workers.running.context import TaskContext
from workers.running.surroundings import describe_surroundings
from workers.stages.behaviours import build_behaviour
from workers.stages.inputs import (
    CircuitInputs,
    CompressionInputs,
    CorrectionInputs,
    Inputs,
    SetInfo,
)


class JobInputs(Inputs):
    """The inputs of one job, resolved from its spec; large ones are loaded on first use."""

    def __init__(self, context: TaskContext, spec: JobSpecBase) -> None:
        self._context = context
        self._model = spec.model
        self._dtype = DTYPES[spec.dtype]

    @cached_property
    def checkpoint_path(self) -> Path:
        """The checkpoint's folder; its files are checked before anything is loaded from them.

        Raises `InvalidRequestError` and `CheckpointError`.
        """
        try:
            return find_checkpoint_folder(self._model, self._context.settings.model_roots)
        except ModelSourceError as error:
            raise InvalidRequestError(error.message, param="model") from error

    @cached_property
    def model_sha256(self) -> str:
        """The hash of the checkpoint's weights. Raises `CheckpointError`."""
        with self._reading_checkpoint() as folder:
            return compute_checkpoint_sha256(folder)

    @cached_property
    def base(self) -> LoadedModel:
        """The unchanged model of the checkpoint, on the worker's device.

        Raises `CheckpointError` and `UnsupportedArchitectureError`.
        """
        with self._reading_checkpoint() as folder:
            require_tokenizer(folder)
            return load_checkpoint(folder, self._dtype, self._context.settings.device)

    @contextmanager
    def _reading_checkpoint(self) -> Iterator[Path]:
        """Yield the checkpoint's folder; its errors become `CheckpointError`s without paths."""
        folder = self.checkpoint_path
        try:
            yield folder
        except (CheckpointError, SafetensorsFormatError) as error:
            message = str(error).replace(str(folder), self._model)
            raise CheckpointError(message) from error

    def chats(self, prompt_set_id: str) -> list[Prompt]:
        """Return the prompts of a set of the job's tenant; those that are chats stay chats."""
        tenant_id = self._context.tenant_id
        return self._context.transact(
            lambda session: load_prompts(session, tenant_id, prompt_set_id)
        )

    def prompt_set(self, prompt_set_id: str) -> SetInfo:
        """Return name and hash of a prompt set of the job's tenant."""
        tenant_id = self._context.tenant_id
        info = self._context.transact(
            lambda session: load_prompt_set_info(session, tenant_id, prompt_set_id)
        )
        return SetInfo(*info)

    @property
    def task_data(self) -> Path | None:
        """The folder of this worker's own rows and texts, if it has one."""
        return self._context.settings.task_data

    def rows(self, prompt_set_id: str) -> list[str]:
        """Return the rows of a set of the job's tenant as JSON lines."""
        tenant_id = self._context.tenant_id
        return self._context.transact(lambda session: load_rows(session, tenant_id, prompt_set_id))

    def find_task_file(self, task: str) -> Path | None:
        """Return this worker's own rows of a zero-shot task, or None."""
        return self._context.settings.find_task_file(task)


class CorrectionJobInputs(JobInputs, CorrectionInputs):
    """Inputs of a correction."""

    def __init__(self, context: TaskContext, spec: CorrectionSpec) -> None:
        super().__init__(context, spec)
        self.spec = spec

    @property
    def segments(self) -> int | None:
        """The number of segments set by the worker's operator, or None."""
        return self._context.settings.segments

    @cached_property
    def behaviours(self) -> tuple[Behaviour, ...]:
        """The behaviours with their scorers loaded; the scorers are closed with the context.

        Raises `ScorerError`.
        """
        settings = self._context.settings
        surroundings = describe_surroundings(settings, settings.device)
        return tuple(
            build_behaviour(behaviour, surroundings, self._context.resources)
            for behaviour in self.spec.behaviours
        )


class CircuitJobInputs(JobInputs, CircuitInputs):
    """Inputs of a circuit job."""

    def __init__(self, context: TaskContext, spec: CircuitSpec) -> None:
        super().__init__(context, spec)
        self.spec = spec


class CompressionJobInputs(JobInputs, CompressionInputs):
    """Inputs of a compression."""

    def __init__(self, context: TaskContext, spec: CompressionSpec) -> None:
        super().__init__(context, spec)
        self.spec = spec
