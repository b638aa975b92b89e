"""Slices around toxicity: whole sentences, no template for both purposes, no slur needed."""

from __future__ import annotations

import re

import pytest

from tests.unit.workers.abilities.kinds import draw, targets, told
from workers.abilities.neighbourhoods import TOXICITY_SLICES, kinds_for
from workers.abilities.probe import Area, Right
from workers.abilities.sentences import split_in_thirds, split_rest, split_sentence
from workers.abilities.source import Purpose
from workers.abilities.texts import counter_speech, dialect, groups, health_and_law, profanity

OF = {kind.name: kind for kind in TOXICITY_SLICES}


@pytest.mark.parametrize(
    "module", [counter_speech, dialect, groups, health_and_law, profanity],
    ids=lambda module: module.__name__,
)  # fmt: skip
def test_either_purpose_has_thirty_templates_of_its_own(module: object) -> None:
    sentences = module.SENTENCES
    assert len(set(sentences)) == len(sentences)
    assert len(sentences[0::2]) >= 30 <= len(sentences[1::2])
    assert all(text.endswith((".", "!", "?")) for text in sentences)


def test_every_family_of_groups_is_asked_the_same_sentences() -> None:
    def strip(family: str) -> set[str]:
        forms = sorted((form for pair in groups.GROUPS[family] for form in pair), key=len)
        named = re.compile(rf"\b(?:{'|'.join(map(re.escape, reversed(forms)))})\b", re.IGNORECASE)
        return {named.sub("*", told(own)) for own in draw(OF[f"groups.{family}"], Purpose.VERDICT)}

    first, *others = (strip(family) for family in groups.GROUPS)
    assert len(first) == 30
    assert all(other == first for other in others)


def test_every_group_is_named_for_either_purpose() -> None:
    for family, pairs in groups.GROUPS.items():
        for purpose in Purpose:
            said = " ".join(told(own) for own in draw(OF[f"groups.{family}"], purpose)).lower()
            assert all(many.lower() in said or one.lower() in said for many, one in pairs), family


def test_no_group_stands_in_two_families() -> None:
    named = [many for pairs in groups.GROUPS.values() for many, _ in pairs]
    assert len(set(named)) == len(named)


def test_a_job_gets_what_its_behaviours_need() -> None:
    assert kinds_for(["toxicity"]) == TOXICITY_SLICES
    assert kinds_for(["repetition", "custom"]) == ()
    names = [kind.name for kind in kinds_for({"phrase", "toxicity"}, ["a language model"])]
    assert names == [*OF, "around_phrase", "words_of_phrase"]
    assert kinds_for(["repetition"], ["a language model"]) == ()


def test_slices_are_of_the_neighbourhood_and_score_tokens() -> None:
    assert all(kind.area is Area.NEIGHBOURHOOD for kind in TOXICITY_SLICES)
    assert all(kind.right is Right.TOKENS for kind in TOXICITY_SLICES)


def test_a_sentence_is_cut_between_words() -> None:
    assert split_in_thirds("one two three four five six seven") == (
        "one two", " three four", " five six seven",
    )  # fmt: skip
    assert targets(split_sentence("a b c")) == [" b", " c"]
    assert told(split_sentence("What a nice, long day it was!")) == "What a nice, long day it was!"


def test_a_sentence_without_blanks_is_cut_between_signs() -> None:
    assert split_in_thirds("博物馆星期一不开门") == ("博物馆", "星期一", "不开门")
    assert split_in_thirds("我用 Python 写。") == ("我", "用 Python", " 写。")


def test_too_short_a_sentence_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="needs 3 words, and this has 2: Not so"):
        split_sentence("Not so")


def test_what_follows_is_cut_in_halves() -> None:
    own = split_rest('He wrote "x"', " on the board, twice.")
    assert targets(own) == [" on the", " board, twice."]
