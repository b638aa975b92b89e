"""Words of every script: where no blanks part them, each sign is taken for a word.

Chinese, Japanese, Thai, Lao, Khmer, Burmese and their like write words without blanks between
them, and only a dictionary could tell where one ends (Unicode UAX #29, section 4). So their signs,
with the marks on them, are counted, compared and found one by one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

import regex

_DENSE = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}ー"
"""Scripts whose signs are syllables or words."""

_SPELLED = r"\p{Line_Break=Complex_Context}"
"""Scripts without blanks whose signs are letters: those of South-East Asia (UAX #14, class SA)."""

SIGN = rf"(?=[^\W_])[{_DENSE}{_SPELLED}]\p{{M}}*"
"""A sign of a script without blanks, with its marks."""

LETTER = rf"[^\W_{_DENSE}{_SPELLED}]"
"""A letter, mark or digit of a script that parts words by blanks; `_` parts them, too."""

BEFORE_WORD = rf"(?<!{LETTER})"
"""Where such a word may begin."""

AFTER_WORD = rf"(?!(?!\p{{Hangul}}){LETTER})"
"""Where such a word may end: Korean puts particles to a word without a blank."""

AFTER_SIGN = r"(?!\p{M})"
"""Where a sign ends."""

SIGNS_A_WORD, LETTERS_A_WORD = 2, 4
"""Signs in a word of a script of either kind, about: chosen by hand, to the mean of Chinese and of
Thai text."""

SIGNS_OF_WORD = (
    rf"(?:(?=[^\W_])[{_DENSE}]\p{{M}}*){{1,{SIGNS_A_WORD}}}|(?:{SIGN}){{1,{LETTERS_A_WORD}}}"
)
"""As many signs of a script without blanks as are about a word, or what is left of a run."""

_WORD = regex.compile(rf"{SIGN}|{LETTER}+")
_PIECE = regex.compile(rf"\s*(?:{SIGN}|(?:(?!{SIGN})\S)+)|\s+$")
_SIGN = regex.compile(SIGN)
_LAST_SIGN = regex.compile(rf"{SIGN}\Z")
_SPELLED_SIGN = regex.compile(f"[{_SPELLED}]")
_BLANKS = regex.compile(rf"(?<=[{_DENSE}{_SPELLED}])\s+|(?<!\s)\s++(?=[{_DENSE}{_SPELLED}])")
_UNSEEN = regex.compile(r"\p{Default_Ignorable_Code_Point}+")
_QUOTES = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"'})

Span = tuple[int, int]
"""First character of a stretch of text, and the one after its last."""


def normalise(text: str) -> str:
    """Return a text with one form of each character and kind of quotes (NFKC), all to be seen.

    Characters without width go: they hide a word from a search, and from no reader.
    """
    return unicodedata.normalize("NFKC", _UNSEEN.sub("", text)).translate(_QUOTES)


def is_sign(word: str) -> bool:
    """Whether a word, or a text's first one, is of a script without blanks."""
    return _SIGN.match(word) is not None


def ends_with_sign(text: str) -> bool:
    """Whether a text ends with a sign of a script without blanks."""
    return _LAST_SIGN.search(text) is not None


def find_words(text: str) -> Iterator[tuple[str, Span]]:
    """Yield the words of a text, and where they stand."""
    return ((match[0], match.span()) for match in _WORD.finditer(text))


def list_words(text: str) -> tuple[str, ...]:
    """Return the words of a text, normalised and in lower case."""
    return tuple(_WORD.findall(normalise(text).casefold()))


def has_word(text: str) -> bool:
    """Whether there is a word in the text."""
    return _WORD.search(text) is not None


def weigh_word(word: str) -> float:
    """Return how much of a word of an English text a word is, about: a sign is less than one."""
    if not is_sign(word):
        return 1.0
    return 1 / (LETTERS_A_WORD if _SPELLED_SIGN.match(word) else SIGNS_A_WORD)


def cut_pieces(text: str) -> list[str]:
    """Return the words of a text with the marks on them and the blanks before: they join to it."""
    return list(_PIECE.findall(text))


def join_words(words: Sequence[str]) -> str:
    """Return words as they are written: without blanks beside signs."""
    return drop_blanks(" ".join(words))[0]


def drop_blanks(text: str) -> tuple[str, Sequence[int]]:
    """Return a text without blanks beside signs, and where each character left of it stood.

    Such blanks are matters of layout: between Chinese and Latin words, or where a line ends.
    """
    if text.isascii():
        return text, range(len(text))
    dropped = {at for found in _BLANKS.finditer(text) for at in range(*found.span())}
    kept = [at for at in range(len(text)) if at not in dropped]
    return "".join(text[at] for at in kept), kept
