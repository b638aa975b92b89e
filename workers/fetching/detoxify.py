"""Detoxify's published checkpoints: found by name, fetched once, kept as safetensors."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors.torch import save_file

from workers.scorers.detoxify import load_detoxify
from workers.scorers.detoxify_files import (
    MANIFEST_FILE,
    WEIGHTS_FILE,
    DetoxifyArchitecture,
    DetoxifyManifest,
    hash_file,
    read_ckpt,
)
from workers.scorers.errors import ScorerUnavailableError

LOCK_FILE = "detoxify.lock.json"
MAX_BYTES = 2 * 1024**3
TIMEOUT_SECONDS = 60.0
BASE_FILES = (
    "config.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)

_RELEASES = "https://github.com/unitaryai/detoxify/releases/download"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class PublishedVariant:
    """Location of one of Detoxify's checkpoints, and of its base model."""

    url: str
    sha256: str
    """Hash of the file, or its first eight digits, which the authors put into the file's name."""
    base_repository: str
    """Hub repository of the configuration and the tokeniser."""
    base_revision: str


_BERT = ("google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594")
_ROBERTA = ("FacebookAI/roberta-base", "e2da8e2f811d1448a5b465c236feacd80ffbac7b")
_XLM_ROBERTA = ("FacebookAI/xlm-roberta-base", "e73636d4f797dec63c3081bb6ed5c7b0bb3f2089")
_ALBERT = ("albert/albert-base-v2", "8e2f239c5f8a2c0f253781ca60135db913e5c80c")

VARIANTS: Mapping[str, PublishedVariant] = {
    "original": PublishedVariant(
        f"{_RELEASES}/v0.1-alpha/toxic_original-c1212f89.ckpt",
        "c1212f89ac23307ab33932ce29dc446a6e030fb3f384a500890bbe662b7b544a",
        *_BERT,
    ),
    "unbiased": PublishedVariant(
        f"{_RELEASES}/v0.3-alpha/toxic_debiased-c7548aa0.ckpt",
        "c7548aa09468726af4cfdd0959912467784de4a076786913ada9f0f21b68f60d",
        *_ROBERTA,
    ),
    # Of these three no full hash is public that we know of: eight digits, then the lock file.
    "multilingual": PublishedVariant(
        f"{_RELEASES}/v0.4-alpha/multilingual_debiased-0b549669.ckpt", "0b549669", *_XLM_ROBERTA
    ),
    "original-small": PublishedVariant(
        f"{_RELEASES}/v0.1.2/original-albert-0e1d6498.ckpt", "0e1d6498", *_ALBERT
    ),
    "unbiased-small": PublishedVariant(
        f"{_RELEASES}/v0.1.2/unbiased-albert-c8519128.ckpt", "c8519128", *_ALBERT
    ),
}

FetchBase = Callable[[str, str], Path]
"""(repository, revision) → a folder with the `BASE_FILES` that the repository has."""


def find_detoxify(name: str, roots: Sequence[Path]) -> Path:
    """Return the folder called `name` under the first of `roots` that has one.

    A published variant that no root has is fetched into the first one. Raises
    `ScorerUnavailableError`, which lists the available names.
    """
    if not _NAME.fullmatch(name):
        raise ScorerUnavailableError(
            f"{name!r} is not a valid name of a Detoxify checkpoint: 1 to 64 letters, digits, - "
            "and _, neither dots nor slashes"
        )
    for root in roots:
        if (root / name).is_dir():
            return root / name
    if name in VARIANTS and roots:
        return fetch_detoxify(name, roots[0])
    local = {folder.name for root in roots if root.is_dir() for folder in root.iterdir()}
    there = sorted(name for name in local if _NAME.fullmatch(name))
    raise ScorerUnavailableError(
        f"no folder of the Detoxify roots is called {name!r}. There: {', '.join(there) or 'none'}; "
        f"published, fetched into the first root when asked for: {', '.join(VARIANTS)}."
    )


def fetch_detoxify(
    variant: str,
    cache: Path,
    *,
    client: httpx.Client | None = None,
    fetch_base: FetchBase | None = None,
) -> Path:
    """Return the folder of a published checkpoint under `cache`, fetched on first use.

    The `.ckpt` is read as plain tensors after its hash is checked, and kept as safetensors beside
    the base model's configuration and tokeniser; the folder appears once Detoxify could load it.
    `LOCK_FILE` in `cache` remembers the hash, and what is fetched later must have the same.
    Raises `ScorerUnavailableError`.
    """
    if variant not in VARIANTS:
        raise ScorerUnavailableError(
            f"Detoxify has published no {variant!r}, only {', '.join(VARIANTS)}"
        )
    final = cache / variant
    if final.is_dir():
        return final
    cache.mkdir(parents=True, exist_ok=True)
    published = VARIANTS[variant]
    with tempfile.TemporaryDirectory(prefix=f".{variant}-", dir=cache) as scratch:
        downloaded = Path(scratch) / "download.ckpt"
        _download(published.url, downloaded, client)
        digest = hash_file(downloaded)
        _check_hash(variant, digest, cache)
        base = (fetch_base or _fetch_base)(published.base_repository, published.base_revision)
        folder = Path(scratch) / variant
        convert_checkpoint(downloaded, base, folder, published.url)
        load_detoxify(folder)
        _record_hash(variant, digest, cache)
        _rename_if_absent(folder, final)
    return final


def convert_checkpoint(ckpt: Path, base: Path, folder: Path, source: str) -> None:
    """Write `ckpt` as a folder of safetensors with configuration and tokeniser out of `base`.

    The configuration gets the checkpoint's number of labels. Raises `ScorerUnavailableError`.
    """
    checkpoint = read_ckpt(ckpt)
    folder.mkdir()
    for name in BASE_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    _set_labels(folder / "config.json", checkpoint.architecture)
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
    save_file(tensors, folder / WEIGHTS_FILE)
    manifest = DetoxifyManifest(
        architecture=checkpoint.architecture,
        weights_sha256=hash_file(folder / WEIGHTS_FILE),
        source=source,
        source_sha256=checkpoint.sha256,
    )
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n", "utf-8")


def _set_labels(path: Path, architecture: DetoxifyArchitecture) -> None:
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ScorerUnavailableError(
            f"the base model's config.json cannot be read: {error}"
        ) from error
    labels = [f"LABEL_{index}" for index in range(architecture.outputs)]
    labels[: len(architecture.classes)] = architecture.classes
    config["id2label"] = {str(index): label for index, label in enumerate(labels)}
    config["label2id"] = {label: index for index, label in enumerate(labels)}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _download(url: str, path: Path, client: httpx.Client | None) -> None:
    """Write what `url` holds to `path`, at most `MAX_BYTES`."""
    opened = client or httpx.Client(follow_redirects=True, timeout=TIMEOUT_SECONDS)
    try:
        with opened.stream("GET", url) as response, path.open("wb") as file:
            response.raise_for_status()
            for chunk in response.iter_bytes():
                if file.tell() + len(chunk) > MAX_BYTES:
                    raise ScorerUnavailableError(f"{url} is larger than {MAX_BYTES:,} bytes")
                file.write(chunk)
    except httpx.HTTPError as error:
        raise ScorerUnavailableError(_explain_unreachable(url, error)) from error
    finally:
        if client is None:
            opened.close()


def _fetch_base(repository: str, revision: str) -> Path:
    try:
        folder = snapshot_download(repository, revision=revision, allow_patterns=list(BASE_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ScorerUnavailableError(
            _explain_unreachable(f"{repository} at {revision} on the model hub", error)
        ) from error
    return Path(folder)


def _explain_unreachable(what: str, error: Exception) -> str:
    first_line = str(error).strip().partition("\n")[0]
    return (
        f"cannot fetch {what}: {type(error).__name__}: {first_line}. Without access to it, put a "
        "Detoxify checkpoint into a folder under one of the Detoxify roots and name that folder "
        "as detoxify/<folder>, or use alt-profanity-check."
    )


def _check_hash(variant: str, digest: str, cache: Path) -> None:
    """Refuse a download that differs from the published file or from an earlier download."""
    expected = VARIANTS[variant].sha256
    locked = _read_lock(cache).get(variant, digest)
    if not digest.startswith(expected) or digest != locked:
        wanted = expected if not digest.startswith(expected) else locked
        raise ScorerUnavailableError(
            f"{VARIANTS[variant].url} gave a file whose SHA-256 is {digest}, not {wanted}. Do not "
            f"use it; if the file was replaced on purpose, delete {variant!r} from "
            f"{cache / LOCK_FILE} and have Excise updated."
        )


def _read_lock(cache: Path) -> dict[str, str]:
    path = cache / LOCK_FILE
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_bytes()))
    except ValueError as error:
        raise ScorerUnavailableError(f"{path} is damaged ({error}); restore it") from error


def _record_hash(variant: str, digest: str, cache: Path) -> None:
    lock = {**_read_lock(cache), variant: digest}
    temporary = cache / f".{LOCK_FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(lock, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(cache / LOCK_FILE)


def _rename_if_absent(folder: Path, final: Path) -> None:
    try:
        folder.rename(final)
    except OSError:
        if not final.is_dir():  # another process finished first: its folder is as good as ours
            raise
