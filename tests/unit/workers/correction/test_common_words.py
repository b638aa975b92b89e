"""Common words: those of every text are found, those of one text or of little text are not."""

from __future__ import annotations

import pytest

from excise.installation import EXAMPLES
from workers.correction.common_words import MIN_PIECES, PIECE_WORDS, find_common_words
from workers.correction.leftovers import list_words


def fill(piece: int, *words: str) -> list[str]:
    """A piece with these words, and otherwise words that no other piece has."""
    return [*words, *(f"w{piece}-{place}" for place in range(PIECE_WORDS - len(words)))]


def test_function_words_of_ordinary_text_are_common_and_what_it_is_about_is_not() -> None:
    texts = (EXAMPLES / "reference.txt").read_text().splitlines()
    found = find_common_words(map(list_words, texts))
    assert {"the", "of", "and", "it", "they", "which", "can"} <= found
    assert not found & {"harvest", "government", "glass", "bread", "people", "winter"}
    assert 30 < len(found) < 80


def test_a_word_of_many_pieces_is_common_and_one_of_few_is_not() -> None:
    # Where 3 are due, 5 of 100 come about by chance once in five times, 9 once in 300.
    texts = [fill(n, *["of"] * (n % 12 == 0), *["sea"] * (n % 20 == 0)) for n in range(100)]
    assert find_common_words(texts) == {"of"}


def test_a_word_that_one_text_repeats_is_not_common() -> None:
    texts = [fill(0, *["sea"] * PIECE_WORDS), *(fill(n) for n in range(1, 100))]
    assert find_common_words(texts) == frozenset()


@pytest.mark.parametrize(("pieces", "common"), [(MIN_PIECES - 1, set()), (MIN_PIECES, {"of"})])
def test_little_text_tells_nothing(pieces: int, common: set[str]) -> None:
    assert find_common_words(fill(n, "of") for n in range(pieces)) == common


def test_signs_of_scripts_without_blanks_are_never_common() -> None:
    assert find_common_words(fill(n, "的", "the") for n in range(50)) == {"the"}
