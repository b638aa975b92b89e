"""Plain sentences as probes: the first third is given, the rest makes two items."""

from __future__ import annotations

from workers.abilities.probe import Probe, given, target
from workers.words import cut_pieces

LEAST_WORDS = 3
"""One word for the given part and one for each item."""


def split_sentence(text: str) -> Probe:
    """Return the probe that gives the first third of the words and asks for the other two.

    The space before a word belongs to the word, as in the tokens of most vocabularies. Raises
    `ValueError` for a text of fewer than `LEAST_WORDS` words.
    """
    first, second, third = split_in_thirds(text)
    return Probe((given(first), target(second), target(third)))


def split_rest(before: str, rest: str) -> Probe:
    """Return the probe that gives `before` and asks for `rest` in two halves."""
    pieces = rest.split(" ")
    middle = (len(pieces) + 1) // 2
    second, third = " ".join(pieces[:middle]), "".join(f" {word}" for word in pieces[middle:])
    return Probe((given(before), target(second), target(third)))


def split_in_thirds(text: str) -> tuple[str, str, str]:
    """Return a text in three parts of about as many words each, which join to the text."""
    found = cut_pieces(text)
    if len(found) < LEAST_WORDS:
        raise ValueError(f"a sentence needs {LEAST_WORDS} words, and this has {len(found)}: {text}")
    one, two = len(found) // 3, 2 * len(found) // 3
    return "".join(found[:one]), "".join(found[one:two]), "".join(found[two:])
