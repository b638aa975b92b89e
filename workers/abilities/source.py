"""Where probes are drawn from: a seeded generator over one half of the words and formats.

Probes and protecting text share no word, name or template: each list is dealt out in turn, so
what the search was shown to keep is never what the verdict asks for.
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
    """What probes are for; each purpose has words and formats of its own."""

    VERDICT = "verdict"
    """To be measured before and after a correction."""
    PROTECTION = "protection"
    """To tell the search what must be kept, and to measure its trials on."""


class Source:
    """Draws words, names, numbers and formats of one purpose."""

    def __init__(
        self, seed: int, purpose: Purpose, label: str = "", vocabulary: Sequence[int] = ()
    ) -> None:
        """`label` keeps slices apart; `vocabulary` holds the ids random tokens are drawn from."""
        self.random = random.Random(f"{purpose}:{label}:{seed}")  # noqa: S311 - no secret
        self.purpose = purpose
        self.vocabulary = vocabulary
        self._decks: dict[Sequence[object], list[object]] = {}

    def half(self, options: Sequence[_T]) -> Sequence[_T]:
        """Return the options of this purpose: every second one."""
        return options[0::2] if self.purpose is Purpose.VERDICT else options[1::2]

    def choose(self, options: Sequence[_T]) -> _T:
        """Return one of this purpose's half of the options."""
        return self.random.choice(self.half(options))

    def sample(self, options: Sequence[_T], count: int) -> list[_T]:
        """Return different ones of this purpose's half of the options."""
        return self.random.sample(self.half(options), count)

    def deal(self, options: tuple[_T, ...]) -> _T:
        """Return one of all the options; none comes again before each has come."""
        deck = cast("list[_T]", self._decks.setdefault(options, []))
        if not deck:
            deck += self.random.sample(options, len(options))
        return deck.pop()

    def nouns(self, count: int) -> list[str]:
        """Return different nouns."""
        return self.sample(words.NOUNS, count)

    def names(self, count: int) -> list[str]:
        """Return different first names."""
        return self.sample(words.NAMES, count)

    def number(self, low: int, high: int) -> int:
        """Return a number, both ends in."""
        return self.random.randint(low, high)

    def nonsense(self, count: int) -> list[str]:
        """Return different made-up words, such as `drolen`, that hardly a text holds.

        The two purposes' words end differently, so none is drawn for both.
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
