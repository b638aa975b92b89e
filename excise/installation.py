"""This installation: its version and the location of its files."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

EXAMPLES = Path(__file__).with_name("examples")
"""Folder of example jobs, prompts and texts. In a checkout, a link to its folder `examples`."""


def find_version() -> str | None:
    """Return the installed version; None in a checkout that is not installed."""
    try:
        return version("excise")
    except PackageNotFoundError:
        return None


__version__ = find_version() or "0+unknown"


def find_checkout() -> Path | None:
    """Return the checkout that this code runs from; None if it was installed from a wheel."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() else None
