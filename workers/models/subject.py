"""What is measured: a model with what is needed to talk to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workers.families import Family


@dataclass(frozen=True)
class Subject:
    """A model in the state it is in now: the base, or whatever it was changed into."""

    model: Any
    tokenizer: Any
    family: Family
    pad_id: int
