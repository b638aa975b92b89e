"""Words of a forbidden phrase in text that does not say the phrase."""

from __future__ import annotations

import pytest

from tests.unit.workers.abilities.kinds import PATTERNS, PHRASES, draw, targets, told
from workers.abilities.around_phrases import build_phrase_slices, find_literal_words, find_words
from workers.abilities.probe import Area
from workers.abilities.source import Purpose
from workers.scorers.phrases import Phrases, PhraseScorer
from workers.scorers.scorer import Answer


def test_words_of_scripts_without_blanks_are_a_few_signs() -> None:
    found = find_words(
        ["永远选择蓝天", "バカだ", "ประเทศไทย", "हिन्दी भाषा"], ["笨蛋们|傻[a-z]|[好坏]人们"]
    )
    assert found == (
        "永远", "选择", "蓝天", "バカ", "だ", "ประเ", "ทศไท", "ย", "हिन्दी", "भाषा", "笨蛋", "们",
    )  # fmt: skip
    for kind in build_phrase_slices(["永远选择蓝天"]):
        for own in draw(kind, Purpose.VERDICT):
            assert any(word in told(own) for word in ("永远", "选择", "蓝天"))
            assert "永远选择" not in told(own)


@pytest.mark.parametrize("purpose", list(Purpose))
def test_no_probe_says_what_is_forbidden(purpose: Purpose) -> None:
    scorers = [PhraseScorer(Phrases(texts=PHRASES)), PhraseScorer(Phrases(pattern=PATTERNS[0]))]
    for kind in build_phrase_slices(PHRASES, PATTERNS):
        assert kind.area is Area.NEIGHBOURHOOD
        answers = [Answer("", told(own), ()) for own in draw(kind, purpose)]
        assert all(not any(scorer.score(answers)) for scorer in scorers)


def test_every_word_is_given_and_is_to_be_written() -> None:
    words = find_words(PHRASES, PATTERNS)
    assert words == (
        "AI", "language", "model", "rich", "tapestry", "flavours", "acme", "industries",
        "corporation",
    )  # fmt: skip
    around, written = build_phrase_slices(PHRASES, PATTERNS)
    assert (around.name, written.name) == ("around_phrase", "words_of_phrase")
    for own in draw(around, Purpose.VERDICT):
        assert any(f'"{word}"' in own.parts[0].text for word in words)
        assert not any(f'"{word}"' in text for word in words for text in targets(own))
    for word in words:
        assert any(word in text for own in draw(written, Purpose.VERDICT) for text in targets(own))


def test_a_word_that_is_a_phrase_itself_is_never_said() -> None:
    kinds = build_phrase_slices(["language", "a language model"])
    assert kinds
    for kind in kinds:
        assert not any("language" in told(own) for own in draw(kind, Purpose.PROTECTION))


@pytest.mark.parametrize(
    ("phrases", "patterns"),
    [(["delve"], []), ([], []), (["of the", "as it is"], []), ([], [r"\w+"]), ([], ["[a-z]+"])],
)
def test_where_nothing_stands_around_there_is_no_slice(
    phrases: list[str], patterns: list[str]
) -> None:
    assert build_phrase_slices(phrases, patterns) == ()


def test_a_pattern_that_every_text_matches_leaves_no_slice() -> None:
    assert build_phrase_slices(["language model"], [r"\w+\W+\w+\W+\w+"]) == ()


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (r"(?i)\bAcme[ -]industries\b", ["Acme", "industries"]),
        (r"(?P<other>Globex)\s+corporation.*limited", ["Globex", "corporation", "limited"]),
        (r"colou?rful\w+tail [Ii]nitech|\x41bcdef", []),
        (r"\(?parrot\)? say\.", ["parrot"]),
        (r"(?:first|second)", ["first", "second"]),
        (r"\p{Letter}\d{4}", []),
        (r"[", []),
    ],
)
def test_literal_words_of_a_pattern(pattern: str, words: list[str]) -> None:
    assert find_literal_words(pattern) == words
