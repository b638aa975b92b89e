"""A correction as files for other tools: an adapter, a checkpoint or a GGUF, card and hashes."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from excise.names import ExportForm
from excise.reports.common import JobReport
from workers.pruning.patch import Patch, PatchError, apply_patch, parse_patch
from workers.publishing.adapters import build_adapter
from workers.publishing.cards import CardFacts, write_card
from workers.publishing.gguf_files import GgufError, merge_into_gguf, write_gguf_adapter

CARD_NAME = "README.md"
SUMS_NAME = "SHA256SUMS"
GGUF_ADAPTER_NAME = "adapter.gguf"
GGUF_MODEL_NAME = "model.gguf"


@dataclass(frozen=True)
class Export:
    """What is exported, from what, and as what."""

    patch: bytes
    """The content of patch.safetensors."""
    base: Path
    """The folder of the base checkpoint."""
    base_model: str
    """What card and adapter call it."""
    form: ExportForm
    report: JobReport | None = None
    """Of the patch's job, for the card."""
    base_gguf: Path | None = None
    """The base as GGUF, for a merged one."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    files: tuple[str, ...]
    """Names, sorted; card and hashes included."""
    rank: int | None
    """Of an adapter; None for a whole model."""


def export_correction(export: Export, output: Path) -> Exported:
    """Write the export to the new folder `output`, which appears complete or not at all.

    Raises `PatchError` on an unsound patch or base, `AdapterError` where no adapter can hold the
    patch, `GgufError` where llama.cpp cannot, `FileExistsError` when `output` exists, and
    `ValueError` on a report of another correction.
    """
    patch = parse_patch(export.patch)
    _check(export, patch)
    if output.exists():
        raise FileExistsError(f"{output} exists; name a folder that does not")
    if output.resolve().is_relative_to(export.base.resolve()):
        raise PatchError(f"{output} lies inside {export.base}; name a folder outside it")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        folder = Path(scratch) / "export"
        rank = _write_model(export, patch, folder)
        facts = CardFacts(
            base_model=export.base_model,
            form=export.form,
            rank=rank,
            patch_sha256=hashlib.sha256(export.patch).hexdigest(),
            report=export.report,
        )
        (folder / CARD_NAME).write_text(write_card(patch, facts), encoding="utf-8")
        (folder / SUMS_NAME).write_text(_hash_files(folder), encoding="utf-8")
        files = tuple(_list_files(folder))
        folder.rename(output)
    return Exported(files, rank)


def _check(export: Export, patch: Patch) -> None:
    if export.base_gguf is not None and export.form is not ExportForm.GGUF:
        raise GgufError(f"a GGUF of the base is for {ExportForm.GGUF}, not for {export.form}")
    report = export.report
    if report is not None and report.model.sha256 != patch.base_sha256:
        raise ValueError(
            "the report is of another base than the patch; give the report.json that came with it"
        )


def _write_model(export: Export, patch: Patch, folder: Path) -> int | None:
    """Write what is to be exported into the new folder; return an adapter's rank."""
    if export.form is ExportForm.MERGED:
        apply_patch(patch, export.base, folder)
        return None
    folder.mkdir()
    if export.form is ExportForm.PEFT:
        adapter = build_adapter(patch, export.base, base_model=export.base_model)
        adapter.save(folder)
        return adapter.rank
    if export.base_gguf is not None:
        merge_into_gguf(patch, export.base, export.base_gguf, folder / GGUF_MODEL_NAME)
        return None
    file = folder / GGUF_ADAPTER_NAME
    return write_gguf_adapter(patch, export.base, file, base_model=export.base_model)


def _list_files(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _hash_files(folder: Path) -> str:
    """Return the hash of every file, as `sha256sum` writes and checks them."""
    lines = []
    for name in _list_files(folder):
        with (folder / name).open("rb") as stream:
            lines.append(f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {name}\n")
    return "".join(lines)
