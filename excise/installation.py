"""Where this installation's own files lie: in a checkout of the project, or out of a wheel."""

from __future__ import annotations

from pathlib import Path

EXAMPLES = Path(__file__).with_name("examples")
"""The example jobs, prompts and texts. In a checkout this is a link to its folder `examples`."""


def find_checkout() -> Path | None:
    """The checkout that this code runs from; None where it was installed from a wheel."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() else None
