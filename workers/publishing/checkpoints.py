"""A correction as a full checkpoint: the base's files with the patch applied."""

from __future__ import annotations

from pathlib import Path

from workers.pruning.patch import Patch, apply_patch

SERVED_SUFFIXES = frozenset({".safetensors", ".json", ".txt", ".model", ".jinja"})
"""Suffixes of weights, configuration, tokeniser and chat template; a server needs no others."""


def build_checkpoint(patch: Patch, base: Path, output: Path) -> dict[str, Path]:
    """Write the corrected checkpoint to the new folder `output`; return its files by name.

    Only files that a server reads are returned: no hidden files, folders or documentation. Raises
    what `apply_patch` does.
    """
    apply_patch(patch, base, output)
    return {
        path.name: path
        for path in sorted(output.iterdir())
        if path.is_file() and path.suffix in SERVED_SUFFIXES and not path.name.startswith(".")
    }
