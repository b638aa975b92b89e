"""What holds of every slice: seeds, purposes, enough items, and targets that are what they say."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from tests.tiny import build_tiny_tokenizer
from tests.unit.workers.abilities.kinds import KINDS, draw, targets, told
from tests.unit.workers.abilities.tokenizers import build_byte_tokenizer
from workers.abilities.catalogue import (
    VERDICT_ITEMS,
    build_slices,
    list_ordinary_tokens,
)
from workers.abilities.probe import Probe, SliceKind, probe, target
from workers.abilities.source import Purpose, Source

BYTES = build_byte_tokenizer()
JOINED = build_byte_tokenizer(merges=200)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def test_no_two_slices_have_one_name() -> None:
    names = [kind.name for kind in KINDS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,63}", name) for name in names)


@every_kind
@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_slice_has_sixty_different_items(kind: SliceKind, purpose: Purpose) -> None:
    for seed in range(3):
        found = draw(kind, purpose, seed)
        assert len(found) * kind.items >= VERDICT_ITEMS


@every_kind
def test_the_same_seed_gives_the_same_probes(kind: SliceKind) -> None:
    for purpose in Purpose:
        assert draw(kind, purpose, 3) == draw(kind, purpose, 3)
        assert draw(kind, purpose, 3) != draw(kind, purpose, 4)


@every_kind
def test_purposes_share_no_text(kind: SliceKind) -> None:
    verdict, protection = (
        {(told(own), own.token_ids) for seed in range(5) for own in draw(kind, purpose, seed)}
        for purpose in Purpose
    )
    assert not verdict & protection


@every_kind
def test_a_probe_has_the_items_its_kind_says(kind: SliceKind) -> None:
    for own in draw(kind, Purpose.VERDICT):
        assert own.token_ids or len(targets(own)) == kind.items
        assert all(text.strip() for text in targets(own))
        assert (own.user is not None) == kind.needs_chat


@every_kind
def test_no_field_of_a_template_is_left(kind: SliceKind) -> None:
    left = re.compile(
        r"\{(?:name|other|noun|second|third|place|adjective|word|text|many|one|man|woman|key|value)"
    )
    assert not any(left.search(told(own)) for own in draw(kind, Purpose.PROTECTION))


@every_kind
def test_target_tokens_are_the_target_text(kind: SliceKind) -> None:
    wanted = draw(kind, Purpose.VERDICT, seed=5)
    found = build_slices(BYTES, Purpose.VERDICT, 5, kinds=[kind])[kind.name]
    for own, encoded in zip(wanted, found, strict=False):
        if own.token_ids:
            continue
        marked = [
            token
            for token, is_target in zip(
                encoded.sample.response_ids, encoded.sample.is_explained, strict=True
            )
            if is_target
        ]
        start = 0
        for text, span in zip(targets(own), encoded.spans, strict=True):
            assert BYTES.decode(marked[start : start + span]) == text
            start += span
        assert start == len(marked)


@every_kind
@pytest.mark.parametrize("tokenizer", [BYTES, JOINED], ids=["bytes", "joined"])
def test_spans_add_up_to_the_marks_and_the_text_is_whole(
    kind: SliceKind, tokenizer: object
) -> None:
    for encoded in build_slices(tokenizer, Purpose.PROTECTION, 2, kinds=[kind])[kind.name]:
        assert sum(encoded.spans) == sum(encoded.sample.is_explained) > 0
        assert len(encoded.spans) == kind.items
        assert len(encoded.sample.is_explained) == len(encoded.sample.response_ids)
        assert encoded.sample.prompt_ids


def test_chats_are_left_out_without_a_template() -> None:
    plain = build_slices(build_byte_tokenizer(chat=False), Purpose.VERDICT, 0, items=2, kinds=KINDS)
    with_chat = build_slices(BYTES, Purpose.VERDICT, 0, items=2, kinds=KINDS)
    chats = {kind.name for kind in KINDS if kind.needs_chat}
    assert chats
    assert set(with_chat) - set(plain) == chats
    assert list(with_chat) == [kind.name for kind in KINDS]


def test_a_number_of_items_is_rounded_up_to_whole_probes() -> None:
    kind = next(kind for kind in KINDS if kind.items == 3)
    assert len(build_slices(BYTES, Purpose.VERDICT, 0, items=7, kinds=[kind])[kind.name]) == 3


def test_no_probe_comes_twice() -> None:
    def draw_number(source: Source):
        return probe("n =", f" {source.number(1, 40)}")

    kind = replace(KINDS[0], name="numbers", draw=draw_number, items=1)
    found = build_slices(BYTES, Purpose.VERDICT, 0, items=40, kinds=[kind])["numbers"]
    assert len({encoded.sample.token_ids for encoded in found}) == len(found) == 40


def test_a_slice_without_more_different_probes_is_shorter() -> None:
    kind = replace(KINDS[0], name="one", draw=lambda source: probe("a", " b"), items=1)
    assert len(build_slices(BYTES, Purpose.VERDICT, 0, items=9, kinds=[kind])["one"]) == 1


def test_ordinary_tokens_are_no_special_ones() -> None:
    tokenizer = build_byte_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    ordinary = list_ordinary_tokens(tokenizer)
    assert ordinary == tuple(range(256))
    assert tokenizer.eos_token_id not in ordinary


def test_probes_beyond_the_context_are_left_out_and_slices_of_nothing_else_too() -> None:
    def draw_length(source: Source) -> Probe:
        return probe("n" * source.number(1, 20), "m")

    several = replace(KINDS[0], name="several", draw=draw_length, items=1)
    long = replace(KINDS[0], name="long", draw=lambda source: probe("n" * 12, "m"), items=1)
    kinds = [several, long]

    def lengths(longest: int | None) -> dict[str, set[int]]:
        found = build_slices(BYTES, Purpose.VERDICT, 0, 20, kinds, longest)
        return {
            name: {len(own.sample.token_ids) for own in probes} for name, probes in found.items()
        }

    assert lengths(None) == {"several": set(range(2, 22)), "long": {13}}
    assert lengths(13) == {"several": set(range(2, 14)), "long": {13}}
    assert lengths(12) == {"several": set(range(2, 13))}


def test_what_a_tokenizer_has_no_token_for_is_not_asked() -> None:
    texts = iter(["w1", "w2", "Zug", "w1 Zug", "w3"])
    kind = replace(
        KINDS[0], name="words", draw=lambda source: probe("w5", f" {next(texts)}"), items=1
    )
    tokenizer = build_tiny_tokenizer()
    found = build_slices(tokenizer, Purpose.VERDICT, 0, 5, [kind])["words"]
    assert [own.sample.response_ids for own in found] == [(1,), (2,), (3,)]
    # Nothing but random tokens can be asked of a tokenizer without words of ours.
    assert list(build_slices(tokenizer, Purpose.VERDICT, 0)) == ["random_tokens"]


def test_a_token_with_another_use_stands_for_nothing_unknown() -> None:
    kind = replace(KINDS[0], name="words", draw=lambda source: probe("w0 w5", " w7"), items=1)
    for use in ({"bos_token": "w0"}, {"eos_token": "w0"}):
        tokenizer = build_tiny_tokenizer()
        tokenizer.add_special_tokens(use)
        assert tokenizer.unk_token_id == 0
        assert list(build_slices(tokenizer, Purpose.VERDICT, 0, 1, [kind])) == ["words"]
    assert build_slices(build_tiny_tokenizer(), Purpose.VERDICT, 0, 1, [kind]) == {}


def test_a_probe_without_a_target_token_is_not_asked() -> None:
    # Nothing stands before the only token, so that no model predicts it.
    kind = replace(KINDS[0], name="one", draw=lambda source: Probe((target("w1"),)), items=1)
    assert build_slices(build_tiny_tokenizer(), Purpose.VERDICT, 0, 1, [kind]) == {}


def test_without_ordinary_tokens_there_are_no_random_ones() -> None:
    words = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")
    assert list_ordinary_tokens(tokenizer) == ()
    assert build_slices(tokenizer, Purpose.VERDICT, 0) == {}
