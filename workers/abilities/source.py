"""The source of probes: a seeded generator over one half of the words and formats.

Probes for the verdict and text for protection share no word, name or template, because the entries
of each list go to the two purposes alternately. So the verdict never asks for what the search was
told to keep.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar, cast

from workers.abilities import words

_T = TypeVar("_T")

CONSONANTS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr")
VOWELS = ("a", "e", "i", "o", "u")
ENDINGS = ("n", "k", "l", "p", "t", "m", "r")


class Purpose(StrEnum):
    """What probes are used for; each purpose has its own words and formats."""

    VERDICT = "verdict"
    """Measured before and after a correction."""
    PROTECTION = "protection"
    """Tells the search what must be kept, and measures its trials."""


class Source:
    """Draws words, names, numbers and formats of one purpose."""

    def __init__(
        self, seed: int, purpose: Purpose, label: str = "", vocabulary: Sequence[int] = ()
    ) -> None:
        """Draw by `seed` and `label` (the slice); random tokens are drawn from `vocabulary`."""
        self.random = random.Random(f"{purpose}:{label}:{seed}")  # noqa: S311 - no secret
        self.purpose = purpose
        self.vocabulary = vocabulary
        self._decks: dict[Sequence[object], list[object]] = {}

    def half(self, options: Sequence[_T]) -> Sequence[_T]:
        """Return this purpose's options: every second one."""
        return options[0::2] if self.purpose is Purpose.VERDICT else options[1::2]

    def choose(self, options: Sequence[_T]) -> _T:
        """Return one of this purpose's options; none is repeated before each has been returned."""
        return self.deal(tuple(self.half(options)))

    def sample(self, options: Sequence[_T], count: int) -> list[_T]:
        """Return distinct options from this purpose's half."""
        return self.random.sample(self.half(options), count)

    def deal(self, options: tuple[_T, ...]) -> _T:
        """Return one of all options, both purposes', dealt out as by `choose`."""
        deck = cast("list[_T]", self._decks.setdefault(options, []))
        if not deck:
            deck += self.random.sample(options, len(options))
        return deck.pop()

    def nouns(self, count: int) -> list[str]:
        """Return distinct nouns."""
        return self.sample(words.NOUNS, count)

    def names(self, count: int) -> list[str]:
        """Return distinct first names."""
        return self.sample(words.NAMES, count)

    def number(self, low: int, high: int) -> int:
        """Return an integer from `low` to `high`, both included."""
        return self.random.randint(low, high)

    def nonsense(self, count: int) -> list[str]:
        """Return distinct made-up words, such as `drolen`, which hardly any text contains.

        The two purposes' words have different endings, so no word is drawn for both.
        """
        found: list[str] = []
        while len(found) < count:
            word = "".join(
                self.random.choice(CONSONANTS) + self.random.choice(VOWELS) for _ in range(2)
            ) + self.choose(ENDINGS)
            if word not in found and word not in words.NOUNS:
                found.append(word)
        return found

    def sentence(self) -> str:
        """Return a plain sentence without a full stop."""
        template = self.choose(words.SENTENCES)
        names, nouns = self.names(2), self.nouns(3)
        return template.format(
            name=names[0], other=names[1], noun=nouns[0], second=nouns[1], third=nouns[2],
            adjective=self.choose(words.ADJECTIVES), place=self.choose(words.PLACES),
        )  # fmt: skip
