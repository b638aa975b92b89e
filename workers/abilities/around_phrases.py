"""Slices around a forbidden phrase: its single words, in text that does not say the phrase."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import compress
from weakref import WeakKeyDictionary

import regex

from workers.abilities import words
from workers.abilities.probe import Area, Probe, Right, SliceKind, probe
from workers.abilities.sentences import split_rest
from workers.abilities.source import Purpose, Source
from workers.abilities.texts.phrases import AFTER, FUNCTION_WORDS, WRITTEN
from workers.scorers.phrases import Phrases, PhraseScorer
from workers.scorers.scorer import Answer
from workers.words import LETTER, SIGN, SIGNS_A_WORD, SIGNS_OF_WORD

LEAST_LETTERS = 4
"""Letters of a run in a pattern that is taken for a word; shorter ones are mostly pieces. Of signs
that are syllables or words `SIGNS_A_WORD` will do."""

TEXTS_AT_ONCE = 60
"""Texts that are drawn and searched together, because each search by a pattern starts a process.
Chosen by hand."""

MAX_ROUNDS = 4
"""Up to this many times `TEXTS_AT_ONCE` texts are drawn to find one that says nothing forbidden.
Chosen by hand."""

_NAME = rf"(?:(?!\d){LETTER})+"
_WORD = regex.compile(rf"{SIGNS_OF_WORD}|{_NAME}(?:['’-]{_NAME})*")
_PIECE = "\0"
"""Placeholder for any part of a pattern that can match several characters. A run of letters next
to it is only part of a word."""
_SYNTAX = (
    (regex.compile(r"\\[^A-Za-z0-9]"), " "),
    (regex.compile(r"\(\?#[^)]*\)|\(\?P?<\w+>|\(\?P[=>]\w+\)|\(\?&\w+\)|\(\*\w+\)"), " "),
    (regex.compile(r"\(\?[A-Za-z0-9-]+[:)]|\(\?(?:<?[=!]|[:>|])"), " "),
    (regex.compile(r"\[(?:\\[sn]|[^\]\\\p{L}^])+\]"), " "),
    (regex.compile(r"\\[pPNx]\{[^}]*\}|\\[gLk]<[^>]*>"), _PIECE),
    (regex.compile(r"\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\U[0-9a-fA-F]{8}"), _PIECE),
    (regex.compile(r"\\[wdDXW]"), _PIECE),
    (regex.compile(r"\\."), " "),
    (regex.compile(r"\[\^?\]?[^\]]*\]"), _PIECE),
    (regex.compile(rf"[{_PIECE}\p{{L}}](?:[?*+]|\{{[0-9,]*\}})[?+]?"), _PIECE),
)  # fmt: skip
"""Parts of a pattern that are not literal text, and what replaces each, in order of application."""
_LETTERS = r"\p{L}\p{M}"
_RUN = regex.compile(
    rf"(?<![{_PIECE}{_LETTERS})])(?:[{_LETTERS}]{{{LEAST_LETTERS},}}|(?:{SIGN}){{{SIGNS_A_WORD},}})"
    rf"(?![{_PIECE}{_LETTERS}(])"
)


class NoAllowedTextError(ValueError):
    """Every text drawn says a forbidden phrase or matches a forbidden pattern."""


class _Forbidden:
    """Everything that a job's phrase behaviours forbid, in upper and lower case."""

    def __init__(self, phrases: Sequence[str], patterns: Sequence[str]) -> None:
        found = [Phrases(pattern=pattern) for pattern in patterns]
        if phrases:
            found.append(Phrases(texts=tuple(phrases)))
        self._scorers = [PhraseScorer(own) for own in found]

    def keep_allowed(self, texts: Sequence[str]) -> list[bool]:
        """Return for each text whether it says nothing forbidden."""
        answers = [Answer("", text, ()) for text in texts]
        scores = [scorer.score(answers) for scorer in self._scorers]
        return [not any(found) for found in zip(*scores, strict=True)]


def build_phrase_slices(
    phrases: Sequence[str], patterns: Sequence[str] = ()
) -> tuple[SliceKind, ...]:
    """Return the slices about words of forbidden phrases and of the literal text in patterns.

    `around_phrase` gives a word and asks how neutral text continues; `words_of_phrase` asks for
    the word itself, which occurs in the context. No probe says a whole phrase, so a phrase of one
    word gives no probes; a slice without probes is left out. Raises `ScoringError` if a pattern
    takes too long, `ScorerUnavailableError` if it is not a valid pattern.
    """
    forbidden = _Forbidden(phrases, patterns)
    told = find_words(phrases, patterns)
    found = tuple(compress(told, forbidden.keep_allowed(told)))
    drawings = (
        ("around_phrase", "write around words of the forbidden phrase", _draw_around, Right.TOKENS),
        ("words_of_phrase", "write words of the forbidden phrase", _draw_written, Right.WHOLE),
    )
    kinds = (
        SliceKind(name, Area.NEIGHBOURHOOD, sentence, _avoid(forbidden, draw, found), 2, right)
        for name, sentence, draw, right in drawings
    )
    return tuple(kind for kind in kinds if found and _can_draw(kind))


def find_words(phrases: Sequence[str], patterns: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the content words of phrases and of patterns' literal text, each once, in order.

    Of scripts without blanks, runs of as many signs as a word has, about.
    """
    told = [word for phrase in phrases for word in _WORD.findall(phrase)]
    runs = [run for pattern in patterns for run in find_literal_words(pattern)]
    told += [word for run in runs for word in _WORD.findall(run)]
    seen: dict[str, str] = {}
    for word in told:
        if word.casefold() not in FUNCTION_WORDS:
            seen.setdefault(word.casefold(), word)
    return tuple(seen.values())


def find_literal_words(pattern: str) -> list[str]:
    """Return the words that a pattern contains literally.

    Runs of letters next to a character class, a repetition or a group are left out, because they
    may be only parts of words.
    """
    text = pattern
    for syntax, instead in _SYNTAX:
        text = syntax.sub(instead, text)
    return list(_RUN.findall(text))


def _avoid(
    forbidden: _Forbidden, draw: Callable[[Source, str], Probe], found: tuple[str, ...]
) -> Callable[[Source], Probe]:
    """Return a function that draws probes whose texts say nothing forbidden."""

    queues: WeakKeyDictionary[Source, deque[Probe]] = WeakKeyDictionary()

    def draw_allowed(source: Source) -> Probe:
        queue = queues.setdefault(source, deque())
        for _ in range(MAX_ROUNDS):
            if queue:
                break
            drawn = [draw(source, source.deal(found)) for _ in range(TEXTS_AT_ONCE)]
            texts = ["".join(part.text for part in own.parts) for own in drawn]
            queue.extend(compress(drawn, forbidden.keep_allowed(texts)))
        if not queue:
            raise NoAllowedTextError(
                f"each of {MAX_ROUNDS * TEXTS_AT_ONCE} texts says a forbidden phrase or pattern. "
                "Forbid less than that."
            )
        return queue.popleft()

    return draw_allowed


def _can_draw(kind: SliceKind) -> bool:
    """Return whether each purpose has a text that says nothing forbidden."""
    try:
        for purpose in Purpose:
            kind.draw(Source(0, purpose, kind.name))
    except NoAllowedTextError:
        return False
    return True


def _draw_around(source: Source, word: str) -> Probe:
    """Draw a probe that gives a word and asks for the neutral text after it."""
    before, after = source.deal(tuple(source.half(AFTER)))
    fields = _draw_fields(source, word)
    return split_rest(before.format(**fields), after.format(**fields))


def _draw_written(source: Source, word: str) -> Probe:
    """Draw a probe whose context gives a word and asks for it twice more."""
    pieces = source.deal(tuple(source.half(WRITTEN)))
    fields = _draw_fields(source, word)
    return probe(*(piece.format(**fields) for piece in pieces))


def _draw_fields(source: Source, word: str) -> dict[str, object]:
    (name, other), (noun, second) = source.names(2), source.nouns(2)
    return {
        "word": word, "count": len(word), "spelled": "-".join(word), "name": name, "other": other,
        "noun": noun, "second": second, "adjective": source.choose(words.ADJECTIVES),
        "place": source.choose(words.PLACES),
    }  # fmt: skip
