"""Text without a behaviour: what its words, and the runs of them, say about responses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain

from scipy.stats import hypergeom

from workers.words import weigh_word

Gram = tuple[str, ...]
"""Consecutive words."""

MIN_SHARE = 0.2
"""An n-gram must occur, or newly occur, in at least this share of prompts to be listed. Chosen by
hand."""

WORD_SHARE = 0.5
"""The same for a single word that ordinary text uses as well, alone or among common words. Longer
answers have more of any word: once no slogan ended 40 answers of SmolLM2 after 22 words, `used`,
`also` and `this` stood in 13, 12 and 8 of them, in 0, 2 and 0 before. Chosen by hand."""

MIN_BACKGROUND = 10
"""A kind of text is compared by itself only if there are at least this many texts. Chosen by
hand."""


@dataclass(frozen=True)
class Background:
    """Pieces of text without the behaviour, of several kinds, in which n-grams are counted."""

    kinds: tuple[tuple[frozenset[Gram], ...], ...]
    common_words: frozenset[str] = frozenset()
    """Words that tell nothing, however often they are said."""
    beside: frozenset[Gram] = frozenset()
    """What the base says beside a phrase."""

    def is_plain_word(self, gram: Gram) -> bool:
        """Whether the n-gram is about one word, and these texts or the base use it, too."""
        if sum(map(weigh_word, gram)) > 1:
            return False
        return gram in self.beside or any(gram in piece for kind in self.kinds for piece in kind)

    def find_least_share(self, gram: Gram) -> float:
        """Return the share of prompts from which on the n-gram tells what came instead."""
        telling = tuple(word for word in gram if word not in self.common_words)
        if not telling:
            return math.inf
        return WORD_SHARE if self.is_plain_word(telling) else MIN_SHARE

    def compute_p_value(self, gram: Gram, holding: int, of: int) -> float:
        """Return the p-value of `holding` in `of` prompts having an n-gram, against these texts.

        It is the largest p-value over the kinds of text with enough pieces, so that an n-gram that
        is as common in any of them is ignored; if no kind has enough, it is that over all pieces.
        """
        large = [kind for kind in self.kinds if len(kind) >= MIN_BACKGROUND]
        compared = large or [tuple(chain.from_iterable(self.kinds))]
        return max(
            _test_more(holding, of, sum(gram in piece for piece in kind), len(kind))
            for kind in compared
        )


def _test_more(holding: int, of: int, other_holding: int, other_of: int) -> float:
    """Return the p-value for one share being larger than another; 1 if the other has no texts.

    One-sided Fisher's exact test, by the hypergeometric distribution (Fisher 1935, section 21).
    """
    return float(hypergeom.sf(holding - 1, of + other_of, holding + other_holding, of))
