"""Sizes of prompt sets, and the number of tokens in a behaviour's responses to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from excise.specs.behaviours import BehaviourSpec

BYTES_A_TOKEN = 4
"""Bytes per token of English prose in UTF-8, for sets whose tokens were not counted. Other scripts
need more bytes per letter and more tokens per word; the syntax of JSON lines stands for that of the
chat template."""


@dataclass(frozen=True)
class SetSize:
    """The size of a prompt set."""

    count: int
    tokens: int
    """Number of tokens in the whole set."""

    @classmethod
    def of_file(cls, count: int, size: int) -> Self:
        """Return the size of a file with this many prompts and bytes."""
        return cls(count, size // BYTES_A_TOKEN)

    @property
    def mean_tokens(self) -> float:
        """Mean number of tokens per prompt."""
        return self.tokens / max(self.count, 1)


def count_response_tokens(behaviour: BehaviourSpec, own: SetSize) -> float:
    """Return the tokens of one prompt's responses, including the prompts."""
    decoding = behaviour.decoding
    return decoding.samples * (own.mean_tokens + decoding.max_new_tokens)
