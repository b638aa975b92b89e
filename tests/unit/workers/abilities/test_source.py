"""Two purposes draw from different words; the same seed draws the same."""

from __future__ import annotations

import pytest

from workers.abilities import context, copying, instructions, knowledge, structure, words
from workers.abilities.source import Purpose, Source

LISTS = ("NOUNS", "NAMES", "WOMEN", "MEN", "ADJECTIVES", "PLACES", "SENTENCES", "FILLER")


def sources(seed: int = 0) -> tuple[Source, Source]:
    return Source(seed, Purpose.VERDICT), Source(seed, Purpose.PROTECTION)


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_dealt_out_between_the_purposes(name: str) -> None:
    options = getattr(words, name)
    verdict, protection = (set(source.half(options)) for source in sources())
    assert not verdict & protection
    assert verdict | protection == set(options)
    assert len(options) == len(set(options))


def test_either_purpose_names_women_and_men_alike() -> None:
    for source in sources():
        own = set(source.half(words.NAMES))
        assert len(own & set(words.WOMEN)) == len(own & set(words.MEN)) == 15


def test_women_and_men_have_the_purpose_that_they_have_among_all_names() -> None:
    for source in sources():
        own = {*source.half(words.WOMEN), *source.half(words.MEN)}
        assert own == set(source.half(words.NAMES))


def test_no_made_up_word_is_drawn_for_both_purposes() -> None:
    verdict, protection = (set(source.nonsense(600)) for source in sources())
    assert not verdict & protection


def test_made_up_words_are_different_and_no_nouns() -> None:
    found = sources()[0].nonsense(600)
    assert len(set(found)) == 600
    assert not set(found) & set(words.NOUNS)


@pytest.mark.parametrize("purpose", list(Purpose))
def test_the_same_seed_draws_the_same_and_another_something_else(purpose: Purpose) -> None:
    def tell(seed: int, label: str = "a") -> list[object]:
        source = Source(seed, purpose, label)
        return [source.sentence(), source.nonsense(3), source.names(2), source.number(0, 10**9)]

    assert tell(1) == tell(1)
    assert tell(1) != tell(2)
    assert tell(1) != tell(1, "b")


def test_dealt_options_come_again_only_after_all_have_come() -> None:
    source, options = sources()[0], tuple(range(7))
    turns = [[source.deal(options) for _ in options] for _ in range(3)]
    assert all(sorted(turn) == list(options) for turn in turns)
    assert turns[0] != turns[1] or turns[1] != turns[2]


def test_each_purpose_chooses_every_option_of_its_half_in_turn() -> None:
    options = tuple(range(8))
    for source in sources():
        own = list(source.half(options))
        assert [sorted(source.choose(options) for _ in own) for _ in range(3)] == [own] * 3


def test_two_lists_are_dealt_by_themselves() -> None:
    source = sources()[0]
    dealt = [(source.deal((1, 2, 3)), source.deal(("a", "b"))) for _ in range(6)]
    assert sorted(number for number, _ in dealt) == [1, 1, 2, 2, 3, 3]
    assert sorted(letter for _, letter in dealt) == ["a"] * 3 + ["b"] * 3


def test_a_sentence_holds_only_words_of_its_purpose() -> None:
    for source, other in zip(sources(), reversed(sources()), strict=True):
        foreign = {*other.half(words.NOUNS), *other.half(words.NAMES), *other.half(words.PLACES)}
        said = {word.strip(",s") for _ in range(200) for word in source.sentence().split()}
        assert not said & foreign


@pytest.mark.parametrize("module", [context, copying, instructions, knowledge, structure])
def test_either_purpose_has_several_formats_and_none_twice(module: object) -> None:
    lists = [value for name, value in vars(module).items() if name.startswith("_") and
             name.isupper() and isinstance(value, tuple)]  # fmt: skip
    assert lists
    assert all(len(set(options)) == len(options) >= 8 for options in lists)
