"""The build of one published version: its adapter or checkpoint, and the canary that proves it.

Everything depends only on the patch, the base and the job's prompts, and is stored by content, so a
version that is built twice gets the same artifacts.
"""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from service.artifacts import ArtifactStore
from service.database import Database
from service.serving.publications import PublicationClaim, file_publication
from workers.families import UnsupportedArchitectureError
from workers.kinds.publication.canary import build_canary
from workers.models.checkpoints import CheckpointError
from workers.progress import Advance
from workers.pruning.patch import Patch, PatchError, parse_patch
from workers.pruning.safetensors_files import SafetensorsFormatError
from workers.publishing.adapters import (
    Adapter,
    AdapterError,
    build_adapter,
    find_rank,
    is_served_with_adapters,
)
from workers.publishing.checkpoints import build_checkpoint
from workers.running.context import TaskContext
from workers.running.loading import CorrectionJobInputs
from workers.scorers.errors import ScorerError
from workers.settings import WorkerSettings
from workers.stages.context import InvalidInputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuiltVersion:
    """What is recorded for a version: artifact hashes by file name, and the rank of an adapter."""

    files: dict[str, str]
    rank: int | None
    """None for a whole checkpoint."""


def run_publication(database: Database, settings: WorkerSettings, claim: PublicationClaim) -> None:
    """Build the claimed version and store it.

    Raises `InvalidInputError`, `LeaseLostError` and the service's errors.
    """
    with TaskContext(database, settings, claim) as context:
        # Always float32, whatever the job computed in: the canary's tokens are those of float32.
        inputs = CorrectionJobInputs(context, claim.spec.model_copy(update={"dtype": "float32"}))
        try:
            patch = parse_patch(context.reach(lambda store: store.get(claim.patch_sha256)))
            _check_base(inputs, patch)
            built = build_version(context, claim, patch, inputs.checkpoint_path)
            canary = build_canary(inputs, patch, settings.serving_dtype, _log_progress(claim))
        except (
            CheckpointError,
            PatchError,
            SafetensorsFormatError,
            ScorerError,
            UnsupportedArchitectureError,
        ) as error:
            raise InvalidInputError(str(error)) from error
        asked = canary.model_dump_json().encode()
        canary_sha256 = context.reach(lambda store: store.put_bytes(asked))
        context.transact(
            lambda session: file_publication(
                session, claim.version_id, claim.token, built.files, built.rank, canary_sha256
            )
        )


def build_version(
    context: TaskContext, claim: PublicationClaim, patch: Patch, base: Path
) -> BuiltVersion:
    """Build and store the version's files: an adapter if it fits, else a whole checkpoint."""
    rank = choose_rank(patch, base, claim.max_rank)
    if rank is not None:
        adapter = build_adapter(patch, base, max_rank=claim.max_rank, base_model=claim.base_model)
        return _store_adapter(context, adapter)
    with tempfile.TemporaryDirectory(prefix="excise-publish-") as scratch:
        files = build_checkpoint(patch, base, Path(scratch) / "checkpoint")
        stored = {
            name: context.reach(partial(ArtifactStore.put_file, path=path))
            for name, path in files.items()
        }
        return BuiltVersion(stored, None)


def choose_rank(patch: Patch, base: Path, max_rank: int) -> int | None:
    """Return the rank of the adapter for this patch, or None if it must be a checkpoint."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    if max_rank < 1 or not is_served_with_adapters(config):
        return None
    try:
        return find_rank(patch, base, max_rank)
    except AdapterError as error:
        logger.info("no adapter: %s", error)
        return None


def _store_adapter(context: TaskContext, adapter: Adapter) -> BuiltVersion:
    files = {
        name: context.reach(partial(ArtifactStore.put_bytes, content=content))
        for name, content in adapter.files.items()
    }
    return BuiltVersion(files, adapter.rank)


def _check_base(inputs: CorrectionJobInputs, patch: Patch) -> None:
    """Raise `InvalidInputError` if the model's weights are not the ones that were corrected."""
    if inputs.model_sha256 != patch.base_sha256:
        raise InvalidInputError(
            f"The weights of {inputs.spec.model} have changed since the job corrected them "
            f"(sha256 {inputs.model_sha256}, the patch needs {patch.base_sha256}). "
            "Put the old ones back, or correct the new ones."
        )


def _log_progress(claim: PublicationClaim) -> Advance:
    done = 0.0

    def advance(units: float) -> None:
        nonlocal done
        done += units
        logger.info("%s: %d canary prompts traced", claim.version_id, done)

    return advance
