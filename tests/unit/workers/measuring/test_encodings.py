"""Figures per token need one encoding: one vocabulary alone does not make it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from tokenizers import Tokenizer as TokenizerBackend
from tokenizers import normalizers, processors
from transformers import PreTrainedTokenizerFast

from tests.tiny import as_loaded, build_tiny_model, build_tiny_tokenizer
from workers.abilities.catalogue import ProbeSource
from workers.abilities.probe import Area, Part, Probe, SliceKind
from workers.measuring.encodings import (
    NO_MISMATCH,
    OTHER_IDS,
    CorpusText,
    Mismatches,
    find_mismatches,
)
from workers.measuring.measurement import Baseline, CheckPlan
from workers.measuring.state import Unmeasured

BOS = 77
TEXT = CorpusText(tuple(f"W{i} w{i + 1}" for i in range(20)), 8, 4, "the corpus")
TEMPLATE = "{% for message in messages %}{{ bos_token }} {{ message['content'] }} w91{% endfor %}"


def build_slice(user: str | None = None, text: str = "W1 w2 w3") -> SliceKind:
    probe = Probe((Part(text), Part(" w4 w5", is_target=True)), user)
    return SliceKind("own", Area.COPYING, "do it", lambda source: probe, 1)


def build_base() -> PreTrainedTokenizerFast:
    """Small letters only, after a beginning of text."""
    tokenizer = build_tiny_tokenizer()
    tokenizer.bos_token = f"w{BOS}"
    tokenizer.chat_template = TEMPLATE
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"w{BOS} $A", special_tokens=[(f"w{BOS}", BOS)]
    )
    return tokenizer


def build_plan(kind: SliceKind | None = None) -> CheckPlan:
    base = build_base()
    source = ProbeSource(base, 0, 1, (kind or build_slice(),), None)
    windows = TEXT.cut(base)
    return CheckPlan(
        corpus=windows,
        reference=windows[:2],
        corpus_text=TEXT,
        reference_text=replace(TEXT, sequences=2),
        abilities=source.draw(),
        probe_source=source,
    )


def drop_beginning(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A", special_tokens=[]
    )


def keep_capitals(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()


@pytest.mark.parametrize("change", [drop_beginning, keep_capitals])
def test_the_same_vocabulary_with_another_encoding_is_not_measured(
    change: Callable[[PreTrainedTokenizerFast], None],
) -> None:
    other = build_base()
    change(other)
    assert other.get_vocab() == build_base().get_vocab()
    expected = Mismatches(OTHER_IDS, OTHER_IDS, OTHER_IDS)
    assert find_mismatches(build_plan(), build_base(), other) == expected
    baseline = Baseline(build_plan(), as_loaded(build_tiny_model(), tokenizer=build_base()))
    state = baseline.measure(as_loaded(build_tiny_model(), tokenizer=other))
    assert (state.perplexity, state.divergence, state.abilities) == (OTHER_IDS,) * 3


def test_an_equal_tokenizer_is_none_other() -> None:
    assert find_mismatches(build_plan(), build_base(), build_base()) == NO_MISMATCH
    enlarged = build_base()
    enlarged.add_tokens(["extra"])
    assert find_mismatches(build_plan(), build_base(), enlarged) == NO_MISMATCH


def test_only_texts_that_have_other_ids_are_not_measured() -> None:
    other = build_base()
    other.add_tokens(["w19 w20"], special_tokens=True)
    plan = replace(build_plan(), corpus_text=None)
    lines = ("w19 w20 " * 20,)
    reference = CorpusText(lines, 8, 2, "the text")
    plan = replace(plan, reference=reference.cut(build_base()), reference_text=reference)
    assert find_mismatches(plan, build_base(), other) == Mismatches(reference=OTHER_IDS)


def test_chats_are_compared_through_the_bases_template() -> None:
    plan = replace(build_plan(build_slice("w6", "w1 w2")), corpus_text=None, reference_text=None)
    other = build_base()
    other.chat_template = None  # it is asked through the base's
    assert find_mismatches(plan, build_base(), other) == NO_MISMATCH
    other.bos_token = "w78"
    assert find_mismatches(plan, build_base(), other) == Mismatches(abilities=OTHER_IDS)


def build_base_with(token: str) -> PreTrainedTokenizerFast:
    tokenizer = build_base()
    tokenizer.add_tokens([token], special_tokens=True)
    return tokenizer


def swap_tokens(first: str, second: str) -> PreTrainedTokenizerFast:
    """Return the base's tokenizer with the ids of two tokens exchanged."""
    tokenizer = build_base()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    ids = state["model"]["vocab"]
    ids[first], ids[second] = ids[second], ids[first]
    swapped = TokenizerBackend.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(
        tokenizer_object=swapped,
        bos_token=tokenizer.bos_token,
        unk_token=tokenizer.unk_token,
        chat_template=TEMPLATE,
    )


def test_a_reserved_token_with_another_name_does_no_harm() -> None:
    base, other = build_base_with("<reserved_0>"), build_base_with("<tool>")
    assert base.get_vocab()["<reserved_0>"] == other.get_vocab()["<tool>"]
    assert find_mismatches(build_plan(), base, other) == NO_MISMATCH
    baseline = Baseline(build_plan(), as_loaded(build_tiny_model(), tokenizer=base))
    state = baseline.measure(as_loaded(build_tiny_model(), tokenizer=other))
    for figure in (state.perplexity, state.divergence, state.abilities):
        assert figure is not None
        assert not isinstance(figure, Unmeasured)


def test_tokens_that_occur_and_have_each_others_ids_are_named_as_such() -> None:
    found = find_mismatches(build_plan(), build_base(), swap_tokens("w2", "w3"))
    assert isinstance(found.corpus, Unmeasured)
    assert "2 tokens of the base have another id" in found.corpus.reason
    assert (found.reference, found.abilities) == (found.corpus, found.corpus)
    unused = swap_tokens("w60", "w61")
    assert find_mismatches(build_plan(), build_base(), unused) == NO_MISMATCH


def test_ids_without_a_text_are_compared_by_the_vocabulary() -> None:
    plan = replace(build_plan(), corpus_text=None, reference_text=None, probe_source=None)
    found = find_mismatches(plan, build_base(), swap_tokens("w2", "w3"))
    assert None not in (found.corpus, found.reference, found.abilities)
    assert find_mismatches(plan, build_base(), swap_tokens("w60", "w61")) == NO_MISMATCH


def test_random_tokens_may_be_any_ordinary_ones() -> None:
    kind = SliceKind("own", Area.COPYING, "do it", lambda source: Probe((), token_ids=(1, 2, 3)), 1)
    plan = replace(build_plan(kind), corpus_text=None, reference_text=None)
    found = find_mismatches(plan, build_base(), swap_tokens("w60", "w61"))
    assert isinstance(found.abilities, Unmeasured)
    base, other = build_base_with("<reserved_0>"), build_base_with("<tool>")
    assert find_mismatches(plan, base, other) == NO_MISMATCH
