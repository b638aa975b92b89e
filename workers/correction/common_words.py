"""Common words: those of which a run says nothing about a model, such as "of the"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, islice

from scipy.stats import binom

from workers.words import is_sign

COMMON_SHARE = 0.03
"""A word is common if it stands in more than this share of pieces of text. Chosen by hand: of
`examples/reference.txt` that is 59 words, all but "two", "water" and "years" function words."""

PIECE_WORDS = 25
"""Length of a piece. Occurrences in one piece count once, so a word that a single text is about
does not become common. Chosen by hand."""

MIN_PIECES = 20
"""With fewer pieces of text, no word is taken for common. Chosen by hand."""

MAX_WORDS = 80_000
"""Largest number of words that are counted; it bounds the time."""

CONFIDENCE = 0.05
"""Largest probability of a word that is not common to be found as often. The usual level."""


def find_common_words(texts: Iterable[Sequence[str]]) -> frozenset[str]:
    """Return the words that stand in more than `COMMON_SHARE` of the pieces of some texts.

    `texts` are lists of words. They are joined and cut into pieces; a one-sided binomial test
    leaves out words that little text has so often by chance. No list of words is needed, so this
    works in every language that separates words by spaces. Signs of other scripts are only parts
    of words, and never common.
    """
    words = tuple(islice(chain.from_iterable(texts), MAX_WORDS))
    starts = range(0, len(words) - PIECE_WORDS + 1, PIECE_WORDS)
    if len(starts) < MIN_PIECES:
        return frozenset()
    pieces = (set(words[start : start + PIECE_WORDS]) for start in starts)
    counts = Counter(chain.from_iterable(pieces))
    return frozenset(
        word
        for word, count in counts.items()
        if binom.sf(count - 1, len(starts), COMMON_SHARE) <= CONFIDENCE and not is_sign(word)
    )
