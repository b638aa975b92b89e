"""Phrases a response must not contain: a list of them, or a regular expression.

A model that is kept from saying a sentence may say it with another last word. So of a listed
phrase half of the words in a row count as the phrase, unless it is told otherwise.
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
"""Processor time; where it searches by phrases, the engine looks at the clock now and then only."""

PART_SHARE = 0.5
"""Share of a phrase's words that, in a row, count as the phrase: chosen by hand, after a correction
whose model said "… the smart choice for every household" where it had said "home"."""

LEAST_PART_WORDS = 4
"""Fewest words that can be a part; shorter ones, such as "for every home", are in any text. In
scripts without blanks so many signs as are about four words (`workers.words.weigh_word`)."""


@dataclass(frozen=True)
class Phrases:
    """What is looked for: `texts` word for word, or whatever `pattern` matches. One of the two."""

    texts: tuple[str, ...] = ()
    """Runs of white space, compatibility forms of characters and kinds of quotes count alike;
    characters without width do not count, nor does white space beside a sign of a script without
    blanks."""
    pattern: str | None = None
    """A regular expression, searched for anywhere in the response."""
    ignore_case: bool = True
    whole_words: bool = True
    """Of `texts`: "Ann" is not found in "Annual". Scripts without blanks have no such bounds, and
    a Korean word goes on in its particles."""
    parts: bool = True
    """Of `texts`: half of the words in a row, `LEAST_PART_WORDS` at least, count as the phrase."""


class PhraseScorer:
    """Scores a response 1.0 when it contains one of the phrases, and 0.0 otherwise."""

    direction = Direction.LOWER_IS_BETTER

    def __init__(self, phrases: Phrases, name: str = "phrase") -> None:
        """Look for `phrases`. Raises `ScorerUnavailableError` where they are no valid search."""
        self.name = name
        self._search = _build_search(phrases)

    def score(self, answers: Sequence[Answer]) -> list[float]:
        """Return 1.0 or 0.0 an answer. Raises `ScoringError` where the search costs too much."""
        return [float(bool(found)) for found in self.find([answer.text for answer in answers])]

    def find(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the matches in each text, in order, `MAX_MATCHES` at most.

        Raises `ScoringError` where the search costs too much.
        """
        return [
            [own[start:end] for start, end in spans]
            for own, spans in zip(map(self._search.read, texts), self._locate(texts), strict=True)
        ]

    def locate(self, text: str) -> list[Span]:
        """Return where `text` says a phrase, in order: matches with no word between them are one.

        So a phrase of which a name inside counts by itself is one stretch, too. Raises
        `ScoringError` where the search costs too much.
        """
        (spans,) = self._locate([text])
        written, joined = self._search.read(text), list[Span]()
        for start, end in spans:
            if joined and not has_word(written[joined[-1][1] : start]):
                start = joined.pop()[0]
            joined.append((start, end))
        return [_find_raw(text, span) for span in joined]

    def _locate(self, texts: Sequence[str]) -> list[list[Span]]:
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
    """A way of looking for phrases."""

    def read(self, text: str) -> str:
        """Return a text as it is searched."""

    def locate(self, texts: Sequence[str]) -> list[list[Span]]:
        """Return where each text, as it is read, matches, in order. Raises `SearchError`."""


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
    """A search by a regular expression, in a child."""

    def __init__(self, expression: Expression) -> None:
        self._expression = expression

    def read(self, text: str) -> str:
        """Return the text itself."""
        return text

    def locate(self, texts: Sequence[str]) -> list[list[Span]]:
        """Return where each match stands: the first such words after the match before it."""
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
    """A search for phrases word for word.

    What they are joined to has no repetition inside another and calls nothing, so that compiling
    and searching take memory and time by its length: no child is needed.
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
        """Return where the phrases stand in each of `texts`. Raises `SearchError`."""
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
    """A search for parts of phrases: some of their words in a row, whatever stands between."""

    def __init__(self, phrases: Phrases) -> None:
        self._ignore_case = phrases.ignore_case
        self._parts: dict[int, set[tuple[str, ...]]] = {}
        """Number of words → the parts that have so many."""
        for phrase in phrases.texts if phrases.parts else ():
            for part in _cut_parts([word for word, _ in self._split(normalise(phrase))]):
                self._parts.setdefault(len(part), set()).add(part)

    def find(self, text: str, whole: Sequence[Span]) -> list[Span]:
        """Return the longest runs of words that parts make up, but for words of whole phrases."""
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
    """Yield from each word on the fewest in a row that are a part of the phrase."""
    weights = [0.0, *accumulate(map(weigh_word, words))]
    least = max(LEAST_PART_WORDS, PART_SHARE * weights[-1])
    for start, before in enumerate(weights):
        end = bisect_left(weights, before + least)
        if end < len(weights):
            yield tuple(words[start:end])


def _cut(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    """Return every run of so many words."""
    return [tuple(words[at : at + length]) for at in range(len(words) - length + 1)]


def _join(phrases: Phrases) -> str:
    """Return a regular expression for any of the texts, to search in one by `drop_blanks`."""
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
    """Return where in `text` stands what `span` is of the same text normalised."""
    if text.isascii():  # normalising changes nothing
        return span

    def count(end: int) -> int:
        return len(normalise(text[:end]))

    ends = range(len(text) + 1)
    return bisect_right(ends, span[0], key=count) - 1, bisect_left(ends, span[1], key=count)
