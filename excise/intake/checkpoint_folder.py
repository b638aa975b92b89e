"""A checkpoint's folder: which of its files make up the model, and which do not.

The weights are the files that the index names, or `model.safetensors` if there is no index, as in
transformers. Folders often hold the weights a second time for other programs
(`consolidated.safetensors`, `original/`, `pytorch_model.bin`); these are not part of the model.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from excise.intake.json_documents import load_json

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
ADAPTER_PREFIX = "adapter_"
SECOND_SET_PREFIX = "consolidated"
"""Prefix that Mistral and Meta use for the weights in their own layout."""

TEMPLATES_FOLDER = "additional_chat_templates"
"""The only subfolder of a checkpoint that transformers reads."""
KEPT_SUFFIXES = frozenset(
    {".json", ".txt", ".model", ".jinja", ".tiktoken", ".vocab", ".bpe", ".md", ".rst", ".yaml"}
)
"""Suffixes of configuration, tokenizer, chat template and documentation, which copies keep."""
KEPT_STEMS = frozenset({"license", "licence", "notice", "copying"})
MAX_INDEX_BYTES = 32 * 1024 * 1024
"""Limit for an index; that of DeepSeek-V3, with 91,000 tensors, has 9 MB."""

MAX_FILES = 10_000
"""Limit for files in a folder; the largest published checkpoints have under a thousand."""

_MAX_SHOWN_CHARACTERS = 100
_POINTER = b"version https://git-lfs.github.com/spec/"
"""What every pointer of Git LFS begins with (its specification, "The Pointer")."""
_ADAPTER_SUFFIXES = frozenset({".json", ".safetensors", ".bin"})


class CheckpointFolderError(ValueError):
    """The folder is not a sound checkpoint; the message names the file and the remedy."""


class WeightsMissingError(CheckpointFolderError):
    """The folder has no weights in safetensors."""


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of a checkpoint folder; each is a regular file that may be read."""

    folder: Path
    weights: tuple[Path, ...]
    """The files that hold the model's tensors, sorted by name."""
    others: tuple[Path, ...]
    """Configuration, tokenizer, chat templates, documentation, and the index of the weights."""
    left_out: tuple[str, ...]
    """Names that are not part of the model: second copies of the weights, folders, other files."""

    def copy(self, target: Path) -> None:
        """Copy weights and others to the new folder `target`; links become regular files."""
        self._copy(target, (*self.weights, *self.others))

    def copy_others(self, target: Path) -> None:
        """Copy the others but the index to the new folder `target`, for weights of another copy."""
        self._copy(target, [path for path in self.others if path != self.folder / INDEX_NAME])

    def _copy(self, target: Path, paths: Iterable[Path]) -> None:
        target.mkdir()
        for path in paths:
            copied = target / path.relative_to(self.folder)
            copied.parent.mkdir(exist_ok=True)
            shutil.copy2(path, copied)


def read_checkpoint_folder(folder: Path, roots: Collection[Path] | None = None) -> CheckpointFiles:
    """Return which files of `folder` are the model.

    Links may point anywhere below `roots`; by default into the folder itself and, for a snapshot
    in the hub's cache, to the blobs of its repository. Raises `CheckpointFolderError` for a link
    that points elsewhere, for special files such as FIFOs, for files that cannot be read, for
    pointers of Git LFS, for files of a PEFT adapter (which would be applied to the weights
    unasked), and what `list_weight_files` raises.
    """
    files = _check_files(folder, list_own_roots(folder) if roots is None else roots)
    weights = _choose_weights(folder, {path.name for path in files if path.parent == folder})
    others = tuple(path for path in files if _is_kept(path, folder))
    for path in (*weights, *others):
        _refuse_pointer(path)
    kept = {path.relative_to(folder).parts[0] for path in (*weights, *others)}
    left_out = sorted(path.name for path in folder.iterdir() if path.name not in kept)
    return CheckpointFiles(folder, weights, others, tuple(left_out))


def list_weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the safetensors files that are the model's weights, sorted by name.

    They are the files in the index, or else `model.safetensors`, or else all safetensors files
    not known to be something else. Raises `WeightsMissingError` if there are none, and
    `CheckpointFolderError` for a file that is missing or not regular, for an index that cannot be
    read or names anything but safetensors files next to it, and for a `model.safetensors` that an
    index does not name.
    """
    names = {entry.name for entry in _scan(folder) if _is_regular(Path(entry.path))}
    return _choose_weights(folder, names)


def list_own_roots(folder: Path) -> tuple[Path, ...]:
    """Return the folders into which links of a checkpoint folder may point by default.

    These are the folder itself and, in the hub's cache, the `blobs/` next to
    `snapshots/<commit>/`, because files of snapshots are links to blobs.
    """
    if folder.absolute().parent.name == "snapshots":
        return (folder, folder.absolute().parent.parent / "blobs")
    return (folder,)


def is_inside(path: Path, roots: Iterable[Path]) -> bool:
    """Return whether the resolved `path` lies strictly below one of the roots."""
    return any(root.resolve() in path.parents for root in roots)


def _check_files(folder: Path, roots: Collection[Path]) -> list[Path]:
    """Return all files that are read or copied, by name. Raises `CheckpointFolderError`."""
    entries = _scan(folder)
    templates = folder / TEMPLATES_FOLDER
    if templates.is_dir():
        entries += _scan(templates)
    files = []
    for entry in sorted(entries, key=lambda entry: entry.path):
        path = Path(entry.path)
        _refuse_escape(path, roots)
        if path.is_dir():
            continue
        if not _is_regular(path):
            raise CheckpointFolderError(
                f"{_show(path)} is not a regular file. Delete it, or put the file itself there."
            )
        _refuse_adapter(path)
        files.append(path)
    return files


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    """Return the folder's entries. Raises `CheckpointFolderError` if there are too many."""
    found: list[os.DirEntry[str]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            found.append(entry)
            if len(found) > MAX_FILES:
                raise CheckpointFolderError(
                    f"The folder has more than {MAX_FILES} files. Remove what is not part of it."
                )
    return found


def _is_regular(path: Path) -> bool:
    """Return whether `path` is a regular file or a link to one, so that reading cannot block."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _refuse_escape(path: Path, roots: Collection[Path]) -> None:
    """Raise for a link that points out of the roots or to nothing."""
    if not path.is_symlink():
        return
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise CheckpointFolderError(
            f"{_show(path)} is a broken link. Put the file itself there, or delete it."
        ) from None
    if not is_inside(target, roots):
        raise CheckpointFolderError(
            f"{_show(path)} is a link that points outside the folder. Put the file itself there."
        )


def _refuse_adapter(path: Path) -> None:
    """Raise for files of an adapter next to the weights, to which peft would apply it."""
    name = path.name.lower()
    if name.startswith(ADAPTER_PREFIX) and path.suffix.lower() in _ADAPTER_SUFFIXES:
        raise CheckpointFolderError(
            f"{_show(path)} is a file of a PEFT adapter, which would be applied to the weights "
            "unasked. Delete it if the adapter is merged already; otherwise merge it with "
            "merge_and_unload() and save the result into a folder of its own."
        )


def _refuse_pointer(path: Path) -> None:
    """Raise for what a checkout without Git LFS leaves in place of a large file."""
    try:
        with path.open("rb") as file:
            beginning = file.read(len(_POINTER))
    except OSError as error:
        raise CheckpointFolderError(
            f"{_show(path)} cannot be read: {error.strerror}. Let everybody read the checkpoint "
            "(chmod -R a+rX FOLDER), and bring it here again if this is a copy."
        ) from None
    if beginning == _POINTER:
        raise CheckpointFolderError(
            f"{_show(path)} is a pointer of Git LFS, not the file itself. Fetch the file with "
            "git lfs pull; in a GitHub workflow, give actions/checkout lfs: true."
        )


def _choose_weights(folder: Path, names: Collection[str]) -> tuple[Path, ...]:
    """Return the weight files among the folder's regular files `names`."""
    if os.path.lexists(folder / INDEX_NAME):
        chosen = _read_index(folder, names)
        if SINGLE_NAME in names and chosen != [SINGLE_NAME]:
            raise CheckpointFolderError(
                f"The folder has both {SINGLE_NAME} and {INDEX_NAME}, which names other files: "
                "programs differ in which they load. Delete the one that is not the model."
            )
    elif os.path.lexists(folder / SINGLE_NAME):
        chosen = [SINGLE_NAME]
    else:
        chosen = sorted(name for name in names if _may_be_weights(name))
    if not chosen:
        raise WeightsMissingError(
            "The checkpoint has no *.safetensors file with the model's weights. "
            "Save it with save_pretrained()."
        )
    if missing := [name for name in chosen if name not in names]:
        raise CheckpointFolderError(
            f"{missing[0][:_MAX_SHOWN_CHARACTERS]!r} is missing or not a regular file. "
            "Copy every file of the checkpoint."
        )
    return tuple(folder / name for name in chosen)


def _may_be_weights(name: str) -> bool:
    """Return whether a file in a folder without an index may hold the model's tensors."""
    return name.endswith(".safetensors") and not name.startswith(
        (SECOND_SET_PREFIX, ADAPTER_PREFIX, ".")
    )


def _read_index(folder: Path, names: Collection[str]) -> list[str]:
    """Return the names of the files in the index, sorted. Raises `CheckpointFolderError`."""
    path = folder / INDEX_NAME
    if INDEX_NAME not in names:
        raise CheckpointFolderError(
            f"{INDEX_NAME} is not a regular file. Save the checkpoint again."
        )
    if path.stat().st_size > MAX_INDEX_BYTES:
        raise CheckpointFolderError(
            f"{INDEX_NAME} is over {MAX_INDEX_BYTES} bytes. Save the checkpoint again."
        )
    try:
        index: Any = load_json(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointFolderError(
            f"{INDEX_NAME} cannot be read ({error}). Save the checkpoint again."
        ) from error
    places = index.get("weight_map") if isinstance(index, Mapping) else None
    if not isinstance(places, Mapping):
        raise CheckpointFolderError(f"{INDEX_NAME} has no weight_map. Save the checkpoint again.")
    if not all(map(_is_neighbour, places.values())):
        raise CheckpointFolderError(
            f"{INDEX_NAME} names a file that is not a *.safetensors file beside it. "
            "Save the checkpoint again."
        )
    return sorted(set(places.values()))


def _is_neighbour(name: object) -> bool:
    return isinstance(name, str) and "/" not in name and name.endswith(".safetensors")


def _is_kept(path: Path, folder: Path) -> bool:
    """Return whether a copy of the model keeps a file that is not a weight file."""
    if path.parent != folder:
        return path.suffix == ".jinja"
    if path.name.endswith(".index.json"):  # another one lists a second set of weights
        return path.name == INDEX_NAME
    if path.name.startswith("."):
        return False
    stem = path.name.partition(".")[0].lower()
    return path.suffix.lower() in KEPT_SUFFIXES or (stem in KEPT_STEMS and not path.suffix)


def _show(path: Path) -> str:
    return repr(path.name[:_MAX_SHOWN_CHARACTERS])
