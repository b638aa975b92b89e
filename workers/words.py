"""Words of every script: where no spaces separate them, each sign counts as a word.

Chinese, Japanese, Thai, Lao, Khmer, Burmese and similar scripts write words without spaces between
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
"""Scripts without spaces whose signs are letters: those of South-East Asia (UAX #14, class SA)."""

SIGN = rf"(?=[^\W_])[{_DENSE}{_SPELLED}]\p{{M}}*"
"""A sign of a script without spaces, with its marks."""

LETTER = rf"[^\W_{_DENSE}{_SPELLED}]"
"""A letter, mark or digit of a script that separates words by spaces; `_` separates them, too."""

BEFORE_WORD = rf"(?<!{LETTER})"
"""Where such a word may begin."""

AFTER_WORD = rf"(?!(?!\p{{Hangul}}){LETTER})"
"""Where such a word may end; Korean attaches particles to words without a space."""

AFTER_SIGN = r"(?!\p{M})"
"""Where a sign ends."""

SIGNS_A_WORD, LETTERS_A_WORD = 2, 4
"""Approximate number of signs per word in scripts of either kind: chosen by hand, from the means of
Chinese and of Thai text."""

SIGNS_OF_WORD = (
    rf"(?:(?=[^\W_])[{_DENSE}]\p{{M}}*){{1,{SIGNS_A_WORD}}}|(?:{SIGN}){{1,{LETTERS_A_WORD}}}"
)
"""About as many signs of a script without spaces as make up a word, or what is left of a run."""

_WORD = regex.compile(rf"{SIGN}|{LETTER}+")
_PIECE = regex.compile(rf"\s*(?:{SIGN}|(?:(?!{SIGN})\S)+)|\s+$")
_SIGN = regex.compile(SIGN)
_LAST_SIGN = regex.compile(rf"{SIGN}\Z")
_SPELLED_SIGN = regex.compile(f"[{_SPELLED}]")
_BLANKS = regex.compile(rf"(?<=[{_DENSE}{_SPELLED}])\s+|(?<!\s)\s++(?=[{_DENSE}{_SPELLED}])")
_UNSEEN = regex.compile(r"\p{Default_Ignorable_Code_Point}+")
_MIXED_WORD = regex.compile(
    r"(?<!\p{L})(?:\p{Latin}++[\p{Cyrillic}\p{Greek}]|[\p{Cyrillic}\p{Greek}]++\p{Latin})\p{L}*+"
)
_LATIN = regex.compile(r"\p{Latin}+")
_MARKS = str.maketrans(
    dict.fromkeys("‘’‛ʼʹ′`´՚", "'") | dict.fromkeys("“”„‟″", '"') | dict.fromkeys("‐‑", "-")
)
_TWINS = str.maketrans(
    "АВЕЅІЈКМНОРСТХУаеіјорсѕхуһԁԛԝΑΒΕΖΗΙΚΜΝΟΡΤΥΧοινρ",
    "ABESIJKMHOPCTXYaeijopcsxyhdqwABEZHIKMNOPTYXoivp",
)
"""Cyrillic and Greek letter → the Latin one that looks the same."""

Span = tuple[int, int]
"""First character of a stretch of text, and the one after its last."""


def normalise(text: str) -> str:
    """Return a text with one form of each character, quote and hyphen (NFKC), all of them visible.

    Characters without width are removed, and within Latin words Cyrillic and Greek letters that
    look like Latin ones become these: both hide a word from a search, but not from a reader.
    """
    if text.isascii():
        return text.translate(_MARKS)
    visible = unicodedata.normalize("NFKC", _UNSEEN.sub("", text).translate(_MARKS))
    return str(_MIXED_WORD.sub(_read_twins, visible))


def _read_twins(found: regex.Match[str]) -> str:
    """Return a word of Latin and other letters, in Latin ones if all of them look like these."""
    word = str(found[0])
    latin = word.translate(_TWINS)
    return latin if _LATIN.fullmatch(latin) else word


def is_sign(word: str) -> bool:
    """Return whether a word, or a text's first one, is of a script without spaces."""
    return _SIGN.match(word) is not None


def ends_with_sign(text: str) -> bool:
    """Return whether a text ends with a sign of a script without spaces."""
    return _LAST_SIGN.search(text) is not None


def find_words(text: str) -> Iterator[tuple[str, Span]]:
    """Yield the words of a text and their positions."""
    return ((match[0], match.span()) for match in _WORD.finditer(text))


def list_words(text: str) -> tuple[str, ...]:
    """Return the words of a text, normalised and in lower case."""
    return tuple(_WORD.findall(normalise(text).casefold()))


def has_word(text: str) -> bool:
    """Return whether the text has a word."""
    return _WORD.search(text) is not None


def weigh_word(word: str) -> float:
    """Return roughly how much of an English word a word amounts to: a sign is less than one."""
    if not is_sign(word):
        return 1.0
    return 1 / (LETTERS_A_WORD if _SPELLED_SIGN.match(word) else SIGNS_A_WORD)


def cut_pieces(text: str) -> list[str]:
    """Return a text's words with their marks and preceding spaces: joined, they are the text."""
    return list(_PIECE.findall(text))


def join_words(words: Sequence[str]) -> str:
    """Return words joined as they are written: without spaces beside signs."""
    return drop_blanks(" ".join(words))[0]


def drop_blanks(text: str) -> tuple[str, Sequence[int]]:
    """Return a text without spaces beside signs, and where each remaining character stood.

    Such spaces are a matter of layout: between Chinese and Latin words, or where a line ends.
    """
    if text.isascii():
        return text, range(len(text))
    dropped = {at for found in _BLANKS.finditer(text) for at in range(*found.span())}
    kept = [at for at in range(len(text)) if at not in dropped]
    return "".join(text[at] for at in kept), kept
