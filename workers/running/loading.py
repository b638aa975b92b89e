"""What a job works on: its checkpoint, loaded once an attempt, and its prompt sets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path

from excise.intake.prompt_sets import Prompt
from excise.specs import CircuitSpec, CompressionSpec, CorrectionSpec
from excise.specs.common import JobSpecBase
from excise.specs.compression import ZeroShotSpec
from service.jobs.inputs import PromptSetInfo, load_prompt_set_info, load_prompts, load_rows
from workers.attribution.accumulation import Storage, SumsPlace, open_storage
from workers.attribution.attributors import Attributor
from workers.correction.behaviour import Behaviour
from workers.correction.budget import Budget
from workers.domain import Granularity
from workers.families import Family, count_components, find_family
from workers.fetching.checkpoints import (
    DTYPES,
    Checkpoint,
    CheckpointError,
    find_checkpoint_folder,
    load_checkpoint,
)
from workers.models.subject import Subject
from workers.pruning.safetensors_files import SafetensorsFormatError, compute_checkpoint_sha256
from workers.running.behaviours import build_behaviour, describe_surroundings
from workers.running.context import InvalidInputError, TaskContext

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
"""A checkpoint has at least one of these, or no tokenizer at all."""


class JobInputs:
    """The inputs of one job of any kind, resolved from its spec; heavy ones on first use."""

    def __init__(self, context: TaskContext, spec: JobSpecBase) -> None:
        self._context = context
        self._model = spec.model
        self._dtype = DTYPES[spec.dtype]

    @cached_property
    def checkpoint_path(self) -> Path:
        """The checkpoint's folder, its files checked before anything is loaded from them.

        Raises `ModelSourceError` and `CheckpointError`.
        """
        return find_checkpoint_folder(self._model, self._context.settings.model_roots)

    @cached_property
    def model_sha256(self) -> str:
        """The hash of the checkpoint's weights. Raises `CheckpointError`."""
        with self._reading_checkpoint() as folder:
            return compute_checkpoint_sha256(folder)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The loaded model, on the worker's device. Raises `CheckpointError`."""
        with self._reading_checkpoint() as folder:
            if not any((folder / name).is_file() for name in TOKENIZER_FILES):
                raise CheckpointError(
                    "The checkpoint has no tokenizer (tokenizer.json or tokenizer.model). "
                    "Save it into the same folder with save_pretrained()."
                )
            return load_checkpoint(folder, self._dtype, self._context.settings.device)

    @cached_property
    def family(self) -> Family:
        """The description of the model's architecture."""
        return find_family(self.checkpoint.model)

    def component_counts(self, granularity: Granularity) -> dict[str, int]:
        """Return module → number of its components."""
        return count_components(self.checkpoint.model, self.family, granularity)

    @contextmanager
    def _reading_checkpoint(self) -> Iterator[Path]:
        """The checkpoint's folder; its faults become `CheckpointError`s that do not tell where."""
        folder = self.checkpoint_path
        try:
            yield folder
        except (CheckpointError, SafetensorsFormatError) as error:
            message = str(error).replace(str(folder), self._model)
            raise CheckpointError(message) from error

    def storing_sums(self) -> AbstractContextManager[Storage]:
        """Within the context, where sums of relevance lie while they grow."""
        return open_storage(SumsPlace(self._context.settings.relevance_storage))

    def prompts(self, prompt_set_id: str) -> list[str]:
        """Return the texts of a prompt set of the job's tenant."""
        return [prompt.text for prompt in self.chats(prompt_set_id)]

    def chats(self, prompt_set_id: str) -> list[Prompt]:
        """Return the prompts of a prompt set of the job's tenant, chats as such."""
        tenant_id = self._context.tenant_id
        return self._context.transact(
            lambda session: load_prompts(session, tenant_id, prompt_set_id)
        )

    def prompt_set(self, prompt_set_id: str) -> PromptSetInfo:
        """Return name and hash of a prompt set of the job's tenant."""
        tenant_id = self._context.tenant_id
        return self._context.transact(
            lambda session: load_prompt_set_info(session, tenant_id, prompt_set_id)
        )

    @property
    def task_data(self) -> Path | None:
        """The folder of this worker's own rows and texts, if it has one."""
        return self._context.settings.task_data

    def rows(self, prompt_set_id: str) -> list[str]:
        """Return the JSON lines of a set of rows of the job's tenant."""
        tenant_id = self._context.tenant_id
        return self._context.transact(lambda session: load_rows(session, tenant_id, prompt_set_id))

    def task_rows(self, task: ZeroShotSpec) -> tuple[list[str], str]:
        """Return the JSON lines of a zero-shot task and what to call them in messages.

        Raises `InvalidInputError` when this worker lacks the server's own rows.
        """
        if task.rows is not None:
            return self.rows(task.rows), self.prompt_set(task.rows).name
        path = self._context.settings.find_task_file(task.name)
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


class CorrectionInputs(JobInputs):
    """What a correction works on."""

    def __init__(self, context: TaskContext, spec: CorrectionSpec) -> None:
        super().__init__(context, spec)
        self.spec = spec

    @cached_property
    def behaviours(self) -> tuple[Behaviour, ...]:
        """The behaviours, with their scorers loaded, open as long as the context is.

        Raises `ScorerError`.
        """
        settings = self._context.settings
        surroundings = describe_surroundings(settings, settings.device)
        return tuple(
            build_behaviour(behaviour, surroundings, self._context.resources)
            for behaviour in self.spec.behaviours
        )

    @property
    def base(self) -> Subject:
        """The model whose behaviours are corrected. Raises `CheckpointError`."""
        checkpoint = self.checkpoint
        return Subject(checkpoint.model, checkpoint.tokenizer, self.family, checkpoint.pad_id)

    @property
    def attributor(self) -> Attributor:
        """What relevance is computed by."""
        return Attributor(self.spec.attribution.attributor)

    @property
    def granularities(self) -> tuple[Granularity, ...]:
        """What a component may be."""
        asked = tuple(map(Granularity, self.spec.attribution.granularities))
        if self.spec.attribution.granularity != "auto":
            return asked
        return tuple(kind for kind in asked if kind in self.family.granularities)

    @property
    def budget(self) -> Budget:
        """What the correction may cost."""
        limits = self.spec.budget
        return Budget(limits.perplexity_increase, limits.kl_mean)


class CircuitInputs(JobInputs):
    """What a circuit job works on."""

    def __init__(self, context: TaskContext, spec: CircuitSpec) -> None:
        super().__init__(context, spec)
        self.spec = spec


class CompressionInputs(JobInputs):
    """What a compression works on."""

    def __init__(self, context: TaskContext, spec: CompressionSpec) -> None:
        super().__init__(context, spec)
        self.spec = spec
