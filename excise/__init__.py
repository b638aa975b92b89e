"""Excise: what people import to specify, submit, watch and read corrections of language models.

`correct`, `find_circuit`, `compress` and `apply` do the work in this process. They are loaded when
first asked for, and need `pip install 'excise[worker]'`; importing `excise` loads no torch.
"""

from typing import Any

from excise.behaviours import Custom, Phrase, Repetition, Toxicity
from excise.engine import CALLS, EngineMissingError, load_call

__all__ = [
    "Custom",
    "EngineMissingError",
    "Phrase",
    "Repetition",
    "Toxicity",
    "apply",
    "compress",
    "correct",
    "find_circuit",
]


def __getattr__(name: str) -> Any:
    if name not in CALLS:
        raise AttributeError(f"module 'excise' has no attribute {name!r}")
    return load_call(name)


def __dir__() -> list[str]:
    return [*__all__]
