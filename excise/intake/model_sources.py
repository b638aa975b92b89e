"""Finding the checkpoint that a job names, and checking its files, without torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from excise.architectures import ARCHITECTURES
from excise.errors import UserError
from excise.intake.checkpoint_folder import (
    PICKLE_SUFFIXES,
    CheckpointFiles,
    CheckpointFolderError,
    is_inside,
    read_checkpoint_folder,
)
from excise.intake.duplicates import DuplicateKeyError
from excise.intake.json_documents import load_json

MAX_CONFIG_BYTES = 1024 * 1024
MAX_CONFIG_COUNTS = {
    "num_hidden_layers": 1024,
    "n_layer": 1024,
    "num_attention_heads": 4096,
    "num_local_experts": 4096,
    "num_experts": 4096,
    "hidden_size": 2**18,
    "intermediate_size": 2**20,
    "vocab_size": 2**23,
}
"""The largest counts that a config.json may have: several times those of the largest published
models (Llama 3.1 405B: 126 layers, 128 heads, hidden size 16,384, intermediate size 53,248;
Qwen3-MoE: 128 experts; Gemma 3: 262,208 tokens). They matter because the model they describe is
allocated before the weights are read."""

_CONFIGS = frozenset({"config.json", "tokenizer_config.json"})
"""Files in which a checkpoint could ask for its own code to be run."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_HUB_REPOSITORY = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HUB_ID = re.compile(rf"(?P<repository>{_HUB_REPOSITORY})@(?P<revision>[0-9a-f]{{40}})")
_HUB_UNPINNED = re.compile(rf"{_HUB_REPOSITORY}(@.*)?")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_FORMS = (
    "Give the name of a folder under one of the model roots, an absolute path inside one of them, "
    "or a hub id pinned to a commit (org/name@<40 hex digits>)."
)


class ModelSourceError(UserError, ValueError):
    """The checkpoint is unknown, out of bounds or in a format that Excise does not load."""

    def __init__(self, message: str) -> None:
        super().__init__(message, param="model")


@dataclass(frozen=True)
class ModelSource:
    """A checkpoint that passed all checks which need neither a download nor torch."""

    id: str
    """The model as the job names it."""
    kind: Literal["local", "hub"]
    path: Path | None
    """The resolved folder of a local checkpoint."""
    revision: str | None
    """The pinned commit of a hub checkpoint."""

    @property
    def repository(self) -> str | None:
        """`org/name` of a hub checkpoint; None for a local one."""
        return self.id.partition("@")[0] if self.kind == "hub" else None


def resolve_model_source(model: str, roots: Sequence[Path]) -> ModelSource:
    """Return the checkpoint that `model` names; the files of a local one are checked.

    Raises `ModelSourceError`, whose message names the problem, the limit and the remedy.
    """
    if hub := _HUB_ID.fullmatch(model):
        return ModelSource(id=model, kind="hub", path=None, revision=hub["revision"])
    if model.startswith("/"):
        path = _find_path(model, roots)
    elif _NAME.fullmatch(model):
        path = _find_name(model, roots)
    else:
        raise ModelSourceError(_explain_malformed(model))
    check_checkpoint_folder(path, roots)
    return ModelSource(id=model, kind="local", path=path, revision=None)


def check_checkpoint_folder(folder: Path, roots: Sequence[Path]) -> str:
    """Check that the checkpoint in `folder` is safe to load; return its architecture.

    Raises `ModelSourceError` for a missing or unreadable config.json, custom code, pickled weights,
    missing safetensors, links that point outside the roots, files of an adapter, and unknown
    architectures.
    """
    _require_config(folder / "config.json")
    _refuse_pickles(folder)
    files = _read_folder(folder, roots)
    configs = {path.name: load_config(path) for path in files.others if path.name in _CONFIGS}
    _refuse_custom_code(configs)
    _refuse_named_weights(configs["config.json"])
    _refuse_huge_counts(configs["config.json"])
    return _check_architecture(configs["config.json"])


def list_checkpoints(roots: Sequence[Path]) -> dict[str, Path]:
    """Return name → folder, for folders with a config.json directly under a root.

    If several roots have the same name, the first root wins.
    """
    found: dict[str, Path] = {}
    for root in roots:
        if root.is_dir():
            for folder in sorted(root.iterdir()):
                if _NAME.fullmatch(folder.name) and (folder / "config.json").is_file():
                    found.setdefault(folder.name, folder)
    return found


def _explain_malformed(model: str) -> str:
    """Return why `model` has none of the three forms, without repeating the input."""
    if _URL.match(model):
        return f"model is a URL; URLs are never loaded. {_FORMS}"
    if "\\" in model or ".." in model.split("/"):
        return f"model must not contain '..' or backslashes. {_FORMS}"
    if _HUB_UNPINNED.fullmatch(model):
        return (
            "model is no folder here, and as a hub id it is not pinned to a commit. Check the "
            "path, or append @ and the commit's 40 lower-case hex digits, not a branch or tag."
        )
    return f"model is not in a known form. {_FORMS}"


def _find_path(model: str, roots: Sequence[Path]) -> Path:
    """Return the folder at the absolute path `model`, resolved, which must be inside a root."""
    if "\0" in model or ".." in model.split("/"):
        raise ModelSourceError(f"model must not contain '..' or NUL. {_FORMS}")
    try:
        path = Path(model).resolve()
        if is_inside(path, roots) and path.is_dir():
            return path
    except (OSError, RuntimeError):  # too long, or a loop of symlinks
        pass
    raise ModelSourceError(
        "model is not a folder inside one of the configured model roots. "
        "Move it there or add its parent folder to EXCISE_MODEL_ROOTS."
    )


def _find_name(name: str, roots: Sequence[Path]) -> Path:
    """Return the folder `name` under the first root that has one."""
    for root in roots:
        folder = root / name
        if folder.is_dir():
            path = folder.resolve()
            if not is_inside(path, roots):
                raise ModelSourceError(
                    f"model {name!r} is a link that leaves the model roots. "
                    "Put the files themselves under a root."
                )
            return path
    known = sorted(list_checkpoints(roots))[:10]
    names = f"Known checkpoints: {', '.join(known)}." if known else "The model roots are empty."
    raise ModelSourceError(f"There is no checkpoint {name!r} under the model roots. {names}")


def _require_config(path: Path) -> None:
    """Raise for a folder without a config.json, which is not a checkpoint."""
    if not path.is_file():
        raise ModelSourceError(
            f"The checkpoint has no {path.name}. Save it with save_pretrained() and try again."
        )


def _read_folder(folder: Path, roots: Sequence[Path]) -> CheckpointFiles:
    """Return the folder's files, all of which must be inside the roots."""
    try:
        return read_checkpoint_folder(folder, roots)
    except CheckpointFolderError as error:
        raise ModelSourceError(str(error)) from error
    except OSError as error:
        raise ModelSourceError(
            f"The checkpoint cannot be read ({error.strerror}). Give the service access to it."
        ) from error


def load_config(path: Path) -> dict[str, Any]:
    """Return the JSON object in the small file at `path`. Raises `ModelSourceError`."""
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ModelSourceError(
            f"The checkpoint's {path.name} is over {MAX_CONFIG_BYTES} bytes. "
            "Remove unneeded fields."
        )
    try:
        config = load_json(path.read_bytes())
    except DuplicateKeyError as error:
        raise ModelSourceError(f"The checkpoint's {path.name} is ambiguous: {error}") from None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ModelSourceError(
            f"The checkpoint's {path.name} is not a JSON object. Save the checkpoint again."
        )
    return config


def _refuse_custom_code(configs: Mapping[str, dict[str, Any]]) -> None:
    """Raise for checkpoints with their own Python code for the model or the tokenizer."""
    for name, content in configs.items():
        if content.get("auto_map"):
            raise ModelSourceError(
                f"The checkpoint's {name} has an auto_map: it asks to run its own code, which "
                "Excise never does. Use a checkpoint whose architecture is part of transformers."
            )


def _refuse_named_weights(config: Mapping[str, Any]) -> None:
    """Raise for a config that makes transformers load other weights than other programs do."""
    if config.get("transformers_weights") is not None:
        raise ModelSourceError(
            "The checkpoint's config.json names its own weight files (transformers_weights), "
            "which other programs ignore. Remove the field, and save the weights as "
            "model.safetensors or with an index."
        )


def _refuse_huge_counts(config: Mapping[str, Any]) -> None:
    """Raise for a config that describes a model far larger than any that exists."""
    for name, limit in MAX_CONFIG_COUNTS.items():
        count = config.get(name)
        if isinstance(count, int) and count > limit:
            raise ModelSourceError(
                f"The checkpoint's config.json has {name} {str(count)[:20]}; at most {limit} are "
                "supported. Save the checkpoint again."
            )


def _refuse_pickles(folder: Path) -> None:
    """Raise for folders with pickled files, which can run code when loaded."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICKLE_SUFFIXES:
            raise ModelSourceError(
                f"The checkpoint has the pickle file {path.name[:100]!r}; only safetensors are "
                "accepted. Convert the weights to safetensors and delete the file."
            )


def _check_architecture(config: dict[str, Any]) -> str:
    """Return the checkpoint's only architecture; raises if Excise does not know it."""
    architectures = config.get("architectures")
    if isinstance(architectures, list) and len(architectures) == 1:
        architecture = architectures[0]
        if isinstance(architecture, str) and architecture in ARCHITECTURES:
            return architecture
    raise ModelSourceError(
        f"The checkpoint's architecture is {str(architectures)[:100]}; supported are "
        f"{', '.join(sorted(ARCHITECTURES))}. Use a checkpoint of one of these."
    )
