"""What `excise gate` refuses: a configuration, or a checkpoint that does not stay as it is."""

from __future__ import annotations


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
