"""Splits by hash: stable, independent of order, near-duplicates together."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.measuring.splits import (
    NEAR_DUPLICATE_JACCARD,
    describe_alike,
    group_near_duplicates,
    split_by_hash,
)


def shingles(text: str) -> set[str]:
    padded = f" {text} "
    return {padded[start : start + 3] for start in range(len(padded) - 2)}


def jaccard(left: str, right: str) -> float:
    one, other = shingles(left), shingles(right)
    return len(one & other) / len(one | other)


def draw_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of unrelated letters: no two are near-duplicates."""
    generator = random.Random(seed)
    return [
        " ".join("".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(4))
        for _ in range(count)
    ]


DIFFERENT = draw_texts(200)


def test_texts_are_alike_only_where_groups_are_fewer() -> None:
    assert describe_alike(DIFFERENT) == ""
    assert describe_alike([*DIFFERENT[:3], DIFFERENT[0].upper()]).startswith(" (3 when near-dup")


def test_about_the_asked_share_is_for_tuning() -> None:
    assert 0.3 < sum(split_by_hash(DIFFERENT, 0.4)) / len(DIFFERENT) < 0.5
    assert split_by_hash(DIFFERENT, 0.0) == [False] * len(DIFFERENT)
    assert split_by_hash(DIFFERENT, 1.0) == [True] * len(DIFFERENT)


def test_the_side_of_a_text_is_fixed_for_ever() -> None:
    # A change here moves held-out prompts into tuning: earlier reports stop being comparable.
    texts = ["Name ten rivers.", "Write about the sea.", "How do bees fly?", "Count to five."]
    assert split_by_hash(texts, 0.4) == [
        int(digest, 16) / 2**32 < 0.4
        for digest in map(
            _digest, ["name ten rivers", "write about the sea", "how do bees fly", "count to five"]
        )
    ]


def _digest(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:8]


def test_the_order_does_not_matter() -> None:
    texts = [*DIFFERENT, *(f"{text} x" for text in DIFFERENT[:50])]
    sides = dict(zip(texts, split_by_hash(texts, 0.4), strict=True))
    for seed in range(3):
        shuffled = random.Random(seed).sample(texts, len(texts))
        assert dict(zip(shuffled, split_by_hash(shuffled, 0.4), strict=True)) == sides


def test_adding_other_texts_moves_nothing() -> None:
    before = split_by_hash(DIFFERENT[:80], 0.4)
    assert split_by_hash(DIFFERENT, 0.4)[:80] == before
    assert split_by_hash([*DIFFERENT[80:], *DIFFERENT[:80]], 0.4)[-80:] == before


def test_a_larger_share_only_adds_to_the_tuning_split() -> None:
    small, large = split_by_hash(DIFFERENT, 0.3), split_by_hash(DIFFERENT, 0.6)
    assert all(later for earlier, later in zip(small, large, strict=True) if earlier)


def test_near_duplicates_stay_on_one_side() -> None:
    for text in DIFFERENT:
        variants = [text, text.upper(), f"{text}?!", f"  {text}  ", f"{text} x"]
        assert len(set(split_by_hash(variants, 0.4))) == 1
        assert len(set(group_near_duplicates(variants))) == 1


@pytest.mark.parametrize("length", range(20, 60, 4))
def test_the_threshold_is_the_jaccard_index_of_trigrams(length: int) -> None:
    # Letters of a script with blanks between words; every trigram differs.
    alphabet = "".join(chr(0x1420 + index) for index in range(200))
    for shared in range(length):
        left = alphabet[:length]
        right = alphabet[:shared] + alphabet[100 : 100 + length - shared]
        together = jaccard(left, right) >= NEAR_DUPLICATE_JACCARD
        assert (len(set(group_near_duplicates([left, right]))) == 1) is together


def test_a_chain_of_near_duplicates_is_one_group() -> None:
    alphabet = "".join(chr(0x1420 + index) for index in range(100))
    chain = [alphabet[start : start + 30] for start in range(0, 60, 5)]
    assert jaccard(chain[0], chain[-1]) < NEAR_DUPLICATE_JACCARD <= jaccard(chain[0], chain[1])
    assert len(set(group_near_duplicates(chain))) == 1
    assert len(set(group_near_duplicates(chain[::-1]))) == 1
    without_link = [chain[0], chain[-1], *DIFFERENT[:5]]
    assert len(set(group_near_duplicates(without_link))) == 7


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("请给我讲一个关于小猫的故事吧", "请给我讲一个关于小狗的故事吧", True),
        ("请给我讲一个关于小猫的故事吧。", "请 给我讲一个关于大象的故事吧!", True),
        ("请给我讲一个关于小猫的故事吧", "今天天气怎么样，要不要带伞？", False),
        ("日本の首都はどこですか", "日本の首都はどこでしょうか", True),
        ("日本の首都はどこですか", "猫と犬のどちらが好きですか", False),
        ("ช่วยเล่านิทานเกี่ยวกับแมวให้ฟังหน่อย", "ช่วยเล่านิทานเกี่ยวกับหมาให้ฟังหน่อย", True),
        ("ช่วยเล่านิทานเกี่ยวกับแมวให้ฟังหน่อย", "พรุ่งนี้ฝนจะตกไหม ควรพกร่มหรือเปล่า", False),
        ("고양이에 대한 이야기를 하나 해 주세요", "강아지에 대한 이야기를 하나 해 주세요", True),
        ("고양이에 대한 이야기를 하나 해 주세요", "내일 비가 올까요 우산을 챙길까요", False),
    ],
)
def test_near_duplicates_of_scripts_without_blanks(one: str, other: str, together: bool) -> None:
    assert (len(set(group_near_duplicates([one, other]))) == 1) is together


def test_different_texts_are_their_own_groups() -> None:
    assert len(set(group_near_duplicates(DIFFERENT))) == len(DIFFERENT)


def test_no_texts_give_no_sides() -> None:
    assert split_by_hash([], 0.4) == []
    assert group_near_duplicates([]) == []


ANY_TEXT = st.text(st.characters() | st.characters(categories=["Cs"]), max_size=20)


@given(st.lists(ANY_TEXT, max_size=8), st.randoms())
def test_any_text_has_a_side_whatever_the_order(texts: list[str], shuffle: random.Random) -> None:
    sides = split_by_hash(texts, 0.5)
    assert len(sides) == len(texts)
    order = shuffle.sample(range(len(texts)), len(texts))
    moved = split_by_hash([texts[index] for index in order], 0.5)
    assert moved == [sides[index] for index in order]
    for text, side in zip(texts, sides, strict=True):
        copies = [index for index, other in enumerate(texts) if other == text]
        assert all(sides[index] is side for index in copies)


@given(st.text(max_size=30), st.floats(0, 1))
def test_a_repeated_text_is_on_one_side(text: str, share: float) -> None:
    assert len(set(split_by_hash([text] * 3, share))) == 1
