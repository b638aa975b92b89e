"""How large prompt sets are, and how many tokens a behaviour's responses to one have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from excise.specs.behaviours import BehaviourSpec

BYTES_A_TOKEN = 4
"""Of English prose in UTF-8, for sets whose tokens were not counted. Other scripts take more bytes
a letter and more tokens a word; the frame of JSON lines stands for the chat template's."""


@dataclass(frozen=True)
class SetSize:
    """How large a prompt set is."""

    count: int
    tokens: int
    """Of all of it."""

    @classmethod
    def of_file(cls, count: int, size: int) -> Self:
        """Return the size of a file of so many prompts and bytes."""
        return cls(count, size // BYTES_A_TOKEN)

    @property
    def mean_tokens(self) -> float:
        """Tokens of one prompt."""
        return self.tokens / max(self.count, 1)


def count_response_tokens(behaviour: BehaviourSpec, own: SetSize) -> float:
    """Return the tokens of one prompt's responses, prompts included."""
    decoding = behaviour.decoding
    return decoding.samples * (own.mean_tokens + decoding.max_new_tokens)
