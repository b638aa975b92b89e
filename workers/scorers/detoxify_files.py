"""Checkpoints in Detoxify's format, read without unpickling and without network, and checked.

A folder holds `config.json`, the tokeniser's files and the weights: either a `.ckpt` file as
published by Detoxify, or `model.safetensors` and `detoxify.json`, converted from a `.ckpt`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from workers.scorers.errors import ScorerUnavailableError

MANIFEST_FILE = "detoxify.json"
WEIGHTS_FILE = "model.safetensors"
CLASS = "toxicity"

_STANDARD_NAMES = {
    "toxic": CLASS,
    "severe_toxic": "severe_toxicity",
    "identity_hate": "identity_attack",
}
_BUFFER = "embeddings.position_ids"
"""Buffer of position ids 0, 1, 2, … that transformers stored with the weights until 2023."""


class DetoxifyArchitecture(BaseModel):
    """What a checkpoint needs besides its tensors: the classes to build, and their outputs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_class: Literal[
        "AlbertForSequenceClassification",
        "BertForSequenceClassification",
        "RobertaForSequenceClassification",
        "XLMRobertaForSequenceClassification",
    ]
    tokenizer_class: Literal[
        "AlbertTokenizer", "BertTokenizer", "RobertaTokenizer", "XLMRobertaTokenizer"
    ]
    outputs: int = Field(ge=1)
    """Number of outputs of the model; those beyond `classes` are identity labels, unused here."""
    classes: tuple[str, ...] = Field(min_length=1)
    """Names of the first outputs, in Detoxify's standardised form."""


class DetoxifyManifest(BaseModel):
    """Content of `detoxify.json`, which describes a converted checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: DetoxifyArchitecture
    weights_sha256: str
    """SHA-256 of `model.safetensors`."""
    source: str
    """Where the `.ckpt` came from."""
    source_sha256: str
    """SHA-256 of the `.ckpt`."""


@dataclass(frozen=True)
class DetoxifyCheckpoint:
    """A Detoxify checkpoint in memory."""

    architecture: DetoxifyArchitecture
    tensors: Mapping[str, torch.Tensor]
    sha256: str
    """SHA-256 of the file that the tensors were read from."""


def read_detoxify_checkpoint(folder: Path) -> DetoxifyCheckpoint:
    """Return the checkpoint in `folder`; the hash of a converted one is checked.

    Raises `ScorerUnavailableError`.
    """
    if not folder.is_dir():
        raise ScorerUnavailableError(f"{folder} is no folder; name one with a Detoxify checkpoint")
    if (folder / MANIFEST_FILE).is_file():
        return _read_converted(folder)
    found = sorted(folder.glob("*.ckpt"))
    if len(found) != 1:
        raise ScorerUnavailableError(
            f"{folder} holds {len(found)} .ckpt files and no {MANIFEST_FILE}; put exactly one "
            ".ckpt file there, beside config.json and the tokeniser's files"
        )
    return read_ckpt(found[0])


def read_ckpt(path: Path) -> DetoxifyCheckpoint:
    """Return the checkpoint in a `.ckpt` file as published by Detoxify.

    Raises `ScorerUnavailableError`, also if the file holds more than tensors and plain data.
    """
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
        arguments = loaded["config"]["arch"]["args"]
        names = loaded["config"]["dataset"]["args"]["classes"]
        architecture = DetoxifyArchitecture(
            model_class=arguments["model_name"],
            tokenizer_class=arguments["tokenizer_name"],
            outputs=arguments["num_classes"],
            classes=tuple(_STANDARD_NAMES.get(name, name) for name in names),
        )
        tensors = dict(loaded["state_dict"])
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ScorerUnavailableError(
            f"{path} is no checkpoint of Detoxify's that loads as plain tensors: "
            f"{type(error).__name__}: {first_line}. Fetch the file again, or name another folder."
        ) from error
    _drop_position_ids(tensors, path)
    return DetoxifyCheckpoint(architecture, tensors, hash_file(path))


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_converted(folder: Path) -> DetoxifyCheckpoint:
    try:
        manifest = DetoxifyManifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
        found = hash_file(folder / WEIGHTS_FILE)
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValidationError, SafetensorError) as error:
        raise ScorerUnavailableError(
            f"the converted checkpoint in {folder} cannot be read: {error}. Delete the folder and "
            "fetch it again."
        ) from error
    if found != manifest.weights_sha256:
        raise ScorerUnavailableError(
            f"{folder / WEIGHTS_FILE} has changed since it was converted: its SHA-256 is {found}, "
            f"not {manifest.weights_sha256}. Delete the folder and fetch it again."
        )
    return DetoxifyCheckpoint(manifest.architecture, tensors, found)


def _drop_position_ids(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Remove the buffers of position ids, which current versions of transformers compute."""
    for name in [name for name in tensors if name.endswith(_BUFFER)]:
        ids = tensors[name].flatten()
        if not torch.equal(ids, torch.arange(len(ids), dtype=ids.dtype)):
            raise ScorerUnavailableError(
                f"{name} in {path} does not count upwards; no published checkpoint is like that"
            )
        del tensors[name]
