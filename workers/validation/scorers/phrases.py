"""Phrases a response must not contain: a list of them, or a regular expression."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import regex

from workers.validation.scorers.errors import ScorerUnavailableError, ScoringError
from workers.validation.scorers.scorer import Answer, Direction

MAX_SECONDS_PER_RESPONSE = 1.0
"""The regular expression engine looks at the clock now and then, so that it may take a few more."""

_QUOTES = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"'})


@dataclass(frozen=True)
class Phrases:
    """What is looked for: `texts` word for word, or whatever `pattern` matches. One of the two."""

    texts: tuple[str, ...] = ()
    """Runs of white space, compatibility forms of characters and kinds of quotes count alike."""
    pattern: str | None = None
    """A regular expression, searched for anywhere in the response."""
    ignore_case: bool = True
    whole_words: bool = True
    """Of `texts`: "Ann" is not found in "Annual"."""


class PhraseScorer:
    """Scores a response 1.0 when it contains one of the phrases, and 0.0 otherwise."""

    direction = Direction.LOWER_IS_BETTER

    def __init__(self, phrases: Phrases, name: str = "phrase") -> None:
        """Look for `phrases`. Raises `ScorerUnavailableError` where they are no valid search."""
        self.name = name
        self._is_literal = phrases.pattern is None
        self._compiled = _compile(phrases)

    def score(self, answers: Sequence[Answer]) -> list[float]:
        """Return 1.0 or 0.0 an answer. Raises `ScoringError` where the search takes too long."""
        return [float(self._is_in(answer.text)) for answer in answers]

    def find(self, text: str) -> list[str]:
        """Return every match in a text, in order. Raises `ScoringError` as `score` does."""
        return [match[0] for match in self._search(text)]

    def _is_in(self, text: str) -> bool:
        return any(True for _ in self._search(text))

    def _search(self, text: str) -> Iterator[regex.Match[str]]:
        searched = normalise(text) if self._is_literal else text
        try:
            yield from self._compiled.finditer(searched, timeout=MAX_SECONDS_PER_RESPONSE)
        except TimeoutError:
            raise ScoringError(
                f"the pattern of {self.name} takes more than {MAX_SECONDS_PER_RESPONSE:g} s on a "
                f"response of {len(text)} characters. Take out repetitions inside repetitions, "
                "such as (a+)+."
            ) from None


def _compile(phrases: Phrases) -> regex.Pattern[str]:
    """Return the search for `phrases`; raises `ScorerUnavailableError`."""
    if (phrases.pattern is None) == (not phrases.texts):
        raise ScorerUnavailableError("give either phrases or a pattern")
    pattern = _join(phrases) if phrases.pattern is None else phrases.pattern
    try:
        compiled = regex.compile(pattern, regex.IGNORECASE if phrases.ignore_case else 0)
    except (regex.error, ValueError, RecursionError) as error:
        raise ScorerUnavailableError(f"the pattern is no regular expression: {error}") from error
    if phrases.pattern is not None and _matches_nothing(compiled):
        raise ScorerUnavailableError(
            "the pattern matches an empty text, so every response would show the behaviour. "
            "Require at least one character."
        )
    return compiled


def _matches_nothing(compiled: regex.Pattern[str]) -> bool:
    try:
        return compiled.search("", timeout=MAX_SECONDS_PER_RESPONSE) is not None
    except TimeoutError:
        return False


def _join(phrases: Phrases) -> str:
    """Return a regular expression for any of the texts."""
    texts = [normalise(text).split() for text in phrases.texts]
    if not all(texts):
        raise ScorerUnavailableError("a phrase is blank; every response would show the behaviour")
    joined = "|".join(r"\s+".join(map(regex.escape, words)) for words in texts)
    return rf"(?<!\w)(?:{joined})(?!\w)" if phrases.whole_words else joined


def normalise(text: str) -> str:
    """Return a text with one form of each character and of each kind of quotes (NFKC)."""
    return unicodedata.normalize("NFKC", text).translate(_QUOTES)
