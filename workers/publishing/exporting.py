"""Exporting a correction for other tools: adapter, checkpoint or GGUF, with card and hashes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from excise.intake.local_files import require_new_folder
from excise.intake.new_folders import building_folder
from excise.names import ExportForm
from excise.reports.common import JobReport
from workers.pruning.patch import Patch, PatchError, apply_patch, parse_patch
from workers.publishing.adapters import build_adapter
from workers.publishing.cards import CardFacts, write_card
from workers.publishing.gguf_files import GgufError, merge_into_gguf, write_gguf_adapter
from workers.publishing.own_reports import require_own_report

CARD_NAME = "README.md"
SUMS_NAME = "SHA256SUMS"
GGUF_ADAPTER_NAME = "adapter.gguf"
GGUF_MODEL_NAME = "model.gguf"


@dataclass(frozen=True)
class Export:
    """What to export, for which base, and in which form."""

    patch: bytes
    """The content of patch.safetensors."""
    base: Path
    """The folder of the base checkpoint."""
    base_model: str
    """Name of the base on the card and in the adapter."""
    form: ExportForm
    report: JobReport | None = None
    """Report of the patch's job, for the card."""
    base_gguf: Path | None = None
    """The base as GGUF, into which the patch is merged."""


@dataclass(frozen=True)
class Exported:
    """The files that were written."""

    files: tuple[str, ...]
    """Their names, sorted, including card and hashes."""
    rank: int | None
    """Rank of the adapter; None for a whole model."""


def export_correction(export: Export, output: Path) -> Exported:
    """Write the export to the new folder `output`, which appears complete or not at all.

    Raises `PatchError` for an unsound patch or base, `AdapterError` if no adapter can represent
    the patch, `GgufError` if llama.cpp cannot, `FileExistsError` if `output` exists, and
    `ValueError` for a report of another correction.
    """
    patch = parse_patch(export.patch)
    _check(export, patch)
    require_new_folder(output)
    if output.resolve().is_relative_to(export.base.resolve()):
        raise PatchError(f"{output} lies inside {export.base}; name a folder outside it")
    with building_folder(output) as folder:
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
    return Exported(files, rank)


def _check(export: Export, patch: Patch) -> None:
    if export.base_gguf is not None and export.form is not ExportForm.GGUF:
        raise GgufError(f"a GGUF of the base is for {ExportForm.GGUF}, not for {export.form}")
    if export.report is not None:
        require_own_report(export.report, patch)


def _write_model(export: Export, patch: Patch, folder: Path) -> int | None:
    """Write adapter or model into the new folder; return an adapter's rank, otherwise None."""
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
    """Return the hashes of all files, in the format of `sha256sum`."""
    lines = []
    for name in _list_files(folder):
        with (folder / name).open("rb") as stream:
            lines.append(f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {name}\n")
    return "".join(lines)
