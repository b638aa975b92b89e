"""Access from `excise` to the engine, which needs torch and is in another package."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from excise.errors import UserError

ENTRY_POINT_GROUP = "excise.engine"

CALLS = ("apply", "compress", "correct", "estimate", "find_circuit")
"""Names of the engine's calls, as `excise` exports them."""


class EngineMissingError(UserError, ImportError):
    """The engine or one of its dependencies is not installed."""


def load_call(name: str) -> Any:
    """Return one of `CALLS`. Raises `EngineMissingError`."""
    found = entry_points(group=ENTRY_POINT_GROUP, name=name)
    if not found:
        raise EngineMissingError(_explain(name, "the engine is not installed"))
    try:
        return found[name].load()
    except ModuleNotFoundError as error:
        raise EngineMissingError(_explain(name, f"{error.name!r} is not installed")) from error


def _explain(name: str, missing: str) -> str:
    return (
        f"excise.{name} needs more than Excise's client: {missing}. "
        "Run: pip install 'excise[worker]'"
    )


def __getattr__(name: str) -> Any:
    """Load one of `CALLS`. Raises `AttributeError` for any other name."""
    if name not in CALLS:
        raise AttributeError(f"module 'excise.engine' has no attribute {name!r}")
    return load_call(name)
