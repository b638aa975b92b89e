"""Phrases that a response must not contain: a list of them, or a regular expression.

A model that may not say a sentence may say it with another last word. Therefore half of a listed
phrase's words in a row count as the phrase, unless this is switched off.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, islice
from typing import Protocol

import regex

from excise.names import Direction
from excise.patterns.searching import (
    MAX_MATCHES,
    MAX_SEARCH_SECONDS,
    BusyError,
    Expression,
    PatternError,
    SearchError,
    check_expression,
    find_matches,
)
from workers.scorers.errors import ScorerUnavailableError, ScoringError
from workers.scorers.scorer import Answer
from workers.words import (
    AFTER_SIGN,
    AFTER_WORD,
    BEFORE_WORD,
    Span,
    drop_blanks,
    ends_with_sign,
    find_words,
    has_word,
    is_sign,
    normalise,
    weigh_word,
)

MAX_SECONDS_PER_RESPONSE = MAX_SEARCH_SECONDS
"""Limit of processor time per response. In a search for listed phrases, the regex engine checks
the clock only now and then."""

PART_SHARE = 0.5
"""This share of a phrase's words, in a row, counts as the phrase. Chosen by hand, after a corrected
model said "… the smart choice for every household" instead of "home"."""

LEAST_PART_WORDS = 4
"""Fewest words that can be a part; shorter ones, such as "for every home", are in any text. In
scripts without blanks, as many signs as make about four words (`workers.words.weigh_word`)."""


@dataclass(frozen=True)
class Phrases:
    """What to search for: either `texts`, word for word, or matches of `pattern`."""

    texts: tuple[str, ...] = ()
    """Runs of white space, compatibility forms of characters and kinds of quotes count alike;
    characters without width do not count, nor does white space beside a sign of a script without
    blanks."""
    pattern: str | None = None
    """A regular expression, searched for anywhere in the response."""
    ignore_case: bool = True
    whole_words: bool = True
    """Whether `texts` must be whole words: "Ann" is not found in "Annual". Scripts without blanks
    have no such bounds, and particles may follow a Korean word."""
    parts: bool = True
    """Whether half of a text's words in a row, at least `LEAST_PART_WORDS`, count as the text."""


class PhraseScorer:
    """Scores a response 1.0 if it contains one of the phrases, and 0.0 otherwise."""

    direction = Direction.LOWER_IS_BETTER

    def __init__(self, phrases: Phrases, name: str = "phrase") -> None:
        """Search for `phrases`. Raises `ScorerUnavailableError` if they are not a valid search."""
        self.name = name
        self._search = _build_search(phrases)
        self._last: dict[str, list[Span]] = {}
        """The texts searched last → their matches: texts are often scored, then located in."""

    def score(self, answers: Sequence[Answer]) -> list[float]:
        """Return 1.0 or 0.0 per answer. Raises `ScoringError` if the search takes too long."""
        return [float(bool(found)) for found in self.find([answer.text for answer in answers])]

    def find(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the matches in each text, in order, at most `MAX_MATCHES`.

        Raises `ScoringError` if the search takes too long.
        """
        return [
            [own[start:end] for start, end in spans]
            for own, spans in zip(map(self._search.read, texts), self._locate(texts), strict=True)
        ]

    def locate(self, text: str) -> list[Span]:
        """Return the spans of `text` that say a phrase, in order.

        Matches without a word between them are merged, so that a phrase is one span even if a
        name within it also matches by itself. Raises `ScoringError` if the search takes too long.
        """
        (spans,) = self._locate([text])
        written, joined = self._search.read(text), list[Span]()
        for start, end in spans:
            if joined and not has_word(written[joined[-1][1] : start]):
                start = joined.pop()[0]
            joined.append((start, end))
        return [_find_raw(text, span) for span in joined]

    def _locate(self, texts: Sequence[str]) -> list[list[Span]]:
        """Return the matches in each text's searched form; known texts are not searched again."""
        known = self._last
        if not all(text in known for text in texts):
            known = dict(zip(texts, self._search_in(texts), strict=True))
            self._last = known
        return [known[text] for text in texts]

    def _search_in(self, texts: Sequence[str]) -> list[list[Span]]:
        try:
            return self._search.locate(texts)
        except SearchError as error:
            raise ScoringError(
                f"the pattern of {self.name} takes more than {error.what} on a response of "
                f"{len(texts[error.position])} characters. Take out repetitions inside "
                "repetitions, such as (a+)+, and calls of itself, such as (?R)."
            ) from None
        except BusyError as error:
            raise ScoringError(f"the pattern of {self.name}: {error}") from error


class _Search(Protocol):
    """A way of searching for phrases."""

    def read(self, text: str) -> str:
        """Return a text in the form in which it is searched."""

    def locate(self, texts: Sequence[str]) -> list[list[Span]]:
        """Return the matches in each text's searched form, in order. Raises `SearchError`."""


def _build_search(phrases: Phrases) -> _Search:
    """Return the search for `phrases`; raises `ScorerUnavailableError`."""
    if (phrases.pattern is None) == (not phrases.texts):
        raise ScorerUnavailableError("give either phrases or a pattern")
    if phrases.pattern is None:
        return _Literals(phrases)
    expression = Expression(phrases.pattern, phrases.ignore_case)
    try:
        check_expression(expression)
    except (PatternError, BusyError) as error:
        raise ScorerUnavailableError(f"the pattern {error}") from error
    return _Pattern(expression)


class _Pattern:
    """A search by a regular expression, in a child process."""

    def __init__(self, expression: Expression) -> None:
        self._expression = expression

    def read(self, text: str) -> str:
        """Return the text itself."""
        return text

    def locate(self, texts: Sequence[str]) -> list[list[Span]]:
        """Return the span of each match: where its text first occurs after the previous match."""
        if not texts:
            return []
        found = find_matches(self._expression, texts, MAX_SECONDS_PER_RESPONSE)
        return [list(_find_in_order(text, own)) for text, own in zip(texts, found, strict=True)]


def _find_in_order(text: str, parts: Sequence[str]) -> Iterator[Span]:
    end = 0
    for part in parts:
        start = text.index(part, end)
        end = start + len(part)
        yield start, end


class _Literals:
    """A search for phrases, word for word.

    They are joined into one regular expression without nested repetitions or recursion, so that
    compiling it and searching with it take memory and time in proportion to its length. No child
    process is needed.
    """

    def __init__(self, phrases: Phrases) -> None:
        self._parts = _Parts(phrases)
        flags = regex.IGNORECASE if phrases.ignore_case else 0
        try:
            self._compiled = regex.compile(_join(phrases), flags)
        except MemoryError:
            raise ScorerUnavailableError(
                "the phrases do not fit in memory. Give fewer or shorter ones."
            ) from None

    def read(self, text: str) -> str:
        """Return the text as `normalise` writes it."""
        return normalise(text)

    def locate(self, texts: Sequence[str]) -> list[list[Span]]:
        """Return the places of the phrases in each of `texts`. Raises `SearchError`."""
        return [self._locate_in(normalise(text), number) for number, text in enumerate(texts)]

    def _locate_in(self, text: str, position: int) -> list[Span]:
        closed, places = drop_blanks(text)
        try:
            found = self._compiled.finditer(closed, timeout=MAX_SECONDS_PER_RESPONSE)
            spans = [match.span() for match in islice(found, MAX_MATCHES)]
        except TimeoutError:
            raise SearchError(position, f"{MAX_SECONDS_PER_RESPONSE:g} s") from None
        whole = [(places[start], places[end - 1] + 1) for start, end in spans]
        return sorted(whole + self._parts.find(text, whole))[:MAX_MATCHES]


class _Parts:
    """A search for parts of phrases: words in a row, ignoring what is between them."""

    def __init__(self, phrases: Phrases) -> None:
        self._ignore_case = phrases.ignore_case
        self._parts: dict[int, set[tuple[str, ...]]] = {}
        """Number of words → the parts with that many words."""
        for phrase in phrases.texts if phrases.parts else ():
            for part in _cut_parts([word for word, _ in self._split(normalise(phrase))]):
                self._parts.setdefault(len(part), set()).add(part)

    def find(self, text: str, whole: Sequence[Span]) -> list[Span]:
        """Return the longest spans covered by parts, without words that lie in `whole` matches."""
        words = self._split(text)
        is_part = [False] * len(words)
        for length, parts in self._parts.items():
            for first, run in enumerate(_cut([word for word, _ in words], length)):
                if run in parts:
                    is_part[first : first + length] = [True] * length
        for number, (_, (start, end)) in enumerate(words):
            is_part[number] &= not any(start < last and first < end for first, last in whole)
        numbered = groupby(range(len(words)), key=is_part.__getitem__)
        runs = [list(numbers) for is_found, numbers in numbered if is_found]
        return [(words[run[0]][1][0], words[run[-1]][1][1]) for run in runs]

    def _split(self, text: str) -> list[tuple[str, Span]]:
        """Return the words of a text, and where they stand."""
        found = list(find_words(text))
        return [(word.casefold(), span) for word, span in found] if self._ignore_case else found


def _cut_parts(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield, for each word, the shortest run from it that counts as a part of the phrase."""
    weights = [0.0, *accumulate(map(weigh_word, words))]
    least = max(LEAST_PART_WORDS, PART_SHARE * weights[-1])
    for start, before in enumerate(weights):
        end = bisect_left(weights, before + least)
        if end < len(weights):
            yield tuple(words[start:end])


def _cut(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    """Return every run of `length` consecutive words."""
    return [tuple(words[at : at + length]) for at in range(len(words) - length + 1)]


def _join(phrases: Phrases) -> str:
    """Return a regular expression for any of the texts, to be searched after `drop_blanks`."""
    texts = [drop_blanks(normalise(text))[0].split() for text in phrases.texts]
    if not all(texts):
        raise ScorerUnavailableError("a phrase is blank; every response would show the behaviour")
    searches: dict[tuple[str, str], list[str]] = {}
    for words in texts:
        bounds = _choose_bounds(words) if phrases.whole_words else ("", "")
        searches.setdefault(bounds, []).append(r"\s+".join(map(regex.escape, words)))
    return "|".join(
        f"{before}(?:{'|'.join(written)}){after}" for (before, after), written in searches.items()
    )


def _choose_bounds(words: Sequence[str]) -> tuple[str, str]:
    """Return what must stand before and after a phrase of these words, as expressions."""
    return (
        "" if is_sign(words[0]) else BEFORE_WORD,
        AFTER_SIGN if ends_with_sign(words[-1]) else AFTER_WORD,
    )


def _find_raw(text: str, span: Span) -> Span:
    """Return the span of `text` that corresponds to `span` of its normalised form."""
    if text.isascii():  # normalising changes nothing
        return span

    def count(end: int) -> int:
        return len(normalise(text[:end]))

    ends = range(len(text) + 1)
    return bisect_right(ends, span[0], key=count) - 1, bisect_left(ends, span[1], key=count)
