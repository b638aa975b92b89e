"""What a correction job works on: its checkpoint, loaded once an attempt, and its prompt sets."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch

from service.jobs.execution import PromptSetInfo, load_prompt_set_info, load_prompts
from service.model_sources import check_checkpoint_folder, resolve_model_source
from workers.attribution.attributors import Attributor
from workers.checkpoints import Checkpoint, fetch_hub_checkpoint, load_checkpoint
from workers.correction.search import Budget
from workers.families import Family, find_family
from workers.pruning.safetensors_files import compute_checkpoint_sha256
from workers.tasks.context import JobContext


class CorrectionInputs:
    """The inputs of one correction, resolved from its spec; heavy ones on first use."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self.spec = context.spec
        self.behaviour = context.spec.behaviours[0]

    @cached_property
    def checkpoint_path(self) -> Path:
        """The checkpoint's folder, its files checked before anything is loaded from them.

        Raises `ModelSourceError` and `CheckpointError`.
        """
        roots = self._context.settings.model_roots
        source = resolve_model_source(self.spec.model, roots)
        if source.path is not None:
            return source.path
        assert source.repository is not None
        assert source.revision is not None
        folder = fetch_hub_checkpoint(source.repository, source.revision)
        check_checkpoint_folder(folder, [folder, *folder.parents[:3]])
        return folder

    @cached_property
    def model_sha256(self) -> str:
        """The hash of the checkpoint's weights."""
        return compute_checkpoint_sha256(self.checkpoint_path)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The loaded model, on the worker's device."""
        return load_checkpoint(self.checkpoint_path, device=self.device)

    @cached_property
    def family(self) -> Family:
        """The description of the model's architecture."""
        return find_family(self.checkpoint.model)

    @property
    def device(self) -> str:
        """Where the model runs."""
        configured = self._context.settings.device
        if configured != "auto":
            return configured
        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def attributor(self) -> Attributor:
        """What relevance is computed by."""
        return Attributor(self.spec.attribution.attributor)

    @property
    def budget(self) -> Budget:
        """What the correction may cost."""
        limits = self.spec.budget
        return Budget(limits.perplexity_increase, limits.kl_mean)

    def prompts(self, prompt_set_id: str) -> list[str]:
        """Return the texts of a prompt set of the job's tenant."""
        with self._context.database.transaction() as session:
            return load_prompts(session, self._context.claim.tenant_id, prompt_set_id)

    def prompt_set(self, prompt_set_id: str) -> PromptSetInfo:
        """Return name and hash of a prompt set of the job's tenant."""
        with self._context.database.transaction() as session:
            return load_prompt_set_info(session, self._context.claim.tenant_id, prompt_set_id)
