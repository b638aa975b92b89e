"""What `excise gate` refuses: a configuration, a folder, a checkpoint that changes meanwhile."""

from __future__ import annotations

from pathlib import Path


class GateConfigError(ValueError):
    """gate.yaml, or a file it names, cannot be used; the message names field and remedy."""


class CheckpointChangedError(RuntimeError):
    """A checkpoint's files were replaced while it was measured."""

    def __init__(self, name: str, how: str) -> None:
        """`name` is the checkpoint as the user gave it, `how` says what is different."""
        super().__init__(
            f"{name} was changed while it was measured ({how}), so that no figure can be told to "
            "be this checkpoint's. Nothing was written. Judge a copy, or a folder that nobody "
            "writes to any more."
        )


class OutputNotClearedError(OSError):
    """Files in the output folder cannot be removed, as on a disk that can only be read."""

    def __init__(self, folder: Path, why: str) -> None:
        """`why` is what the system says."""
        super().__init__(
            f"{folder} cannot be cleared ({why}): gate.json, gate.md and gate.xml of an earlier "
            "run may remain there, and say nothing of this one. Give another --output."
        )


class OutputNotWritableError(OSError):
    """Nothing can be written to the output folder; found before anything is measured."""

    def __init__(self, folder: Path, why: str) -> None:
        """`why` is what the system says."""
        super().__init__(
            f"nothing can be written to {folder} ({why}), so nothing was measured. Free some "
            "space there, or give another --output."
        )
