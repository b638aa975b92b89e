"""Preparation: the base model's own responses, the splits, and whether there is a signal."""

from __future__ import annotations

import random
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.tiny import CONTEXT, build_tiny_model, build_tiny_tokenizer
from workers.correction.preparation import (
    MIN_TRIGGERING,
    REFERENCE_TOKENS,
    BehaviourSettings,
    PromptTooLongError,
    ReferenceTokens,
    cut_corpus,
    encode_text,
    generate_outcomes,
    judge_signal,
    split_reference,
)
from workers.correction.results import PromptOutcome
from workers.validation.splits import split_by_hash

SETTINGS = BehaviourSettings(max_new_tokens=12, threshold=0.5)
PROMPTS = [f"w{index} w{2 * index} w{3 * index % 101}" for index in range(1, 25)]


def outcomes_of(
    model: Any, tokenizer: Any, prompts: list[str], settings: BehaviourSettings = SETTINGS
) -> tuple[PromptOutcome, ...]:
    return generate_outcomes(model, tokenizer, 0, prompts, settings, lambda done, total: None)


def words(count: int, start: int = 0) -> str:
    return " ".join(f"w{(start + index) % 101}" for index in range(count))


def outcome(*, triggering: bool, held_out: bool, metric: float = 0.5) -> PromptOutcome:
    return PromptOutcome(
        prompt="p",
        prompt_ids=(1,),
        response_ids=(2,),
        response="r",
        metric=metric,
        triggering=triggering,
        held_out=held_out,
    )


def test_outcomes_are_the_model_s_own_responses(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    found = outcomes_of(model, tokenizer, PROMPTS)
    assert [entry.prompt for entry in found] == PROMPTS
    assert [not entry.held_out for entry in found] == split_by_hash(PROMPTS, 0.4)
    for entry in found:
        assert entry.prompt_ids == encode_text(tokenizer, entry.prompt)
        assert entry.undesired_sequence.token_ids == entry.prompt_ids + entry.response_ids
        assert len(entry.response_ids) == SETTINGS.max_new_tokens
        assert entry.response == tokenizer.decode(entry.response_ids)
        assert entry.metric == len(set(entry.response_ids)) / len(entry.response_ids)
        assert entry.triggering is (entry.metric <= SETTINGS.threshold)


def test_the_threshold_itself_triggers(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    metric = outcomes_of(model, tokenizer, PROMPTS[:1])[0].metric
    for threshold, expected in ((metric, True), (metric - 1e-9, False)):
        (found,) = outcomes_of(model, tokenizer, PROMPTS[:1], BehaviourSettings(12, threshold))
        assert found.triggering is expected


def test_an_empty_response_does_not_trigger(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    (free,) = outcomes_of(model, tokenizer, PROMPTS[:1])
    model.generation_config.eos_token_id = free.response_ids[0]
    (found,) = outcomes_of(model, tokenizer, PROMPTS[:1], BehaviourSettings(12, 1.0))
    assert (found.response_ids, found.response, found.metric) == ((), "", 0.0)
    assert found.triggering is False


def test_progress_counts_up_to_the_prompts(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    seen: list[tuple[int, int]] = []
    prompts = PROMPTS * 6  # more than one batch
    generate_outcomes(
        model,
        tokenizer,
        0,
        prompts,
        BehaviourSettings(1, 0.5),
        lambda done, total: seen.append((done, total)),
    )
    assert len(seen) > 1
    assert seen[-1] == (len(prompts), len(prompts))
    assert seen == sorted(set(seen))


def test_a_prompt_that_just_fits_is_answered(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    (found,) = outcomes_of(model, tokenizer, [words(CONTEXT - SETTINGS.max_new_tokens)])
    assert len(found.undesired_sequence.token_ids) == CONTEXT


def test_a_prompt_that_is_too_long_is_named_with_the_remedy(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    long = words(CONTEXT - SETTINGS.max_new_tokens + 1)
    with pytest.raises(PromptTooLongError) as caught:
        outcomes_of(build_tiny_model(), tokenizer, [*PROMPTS[:2], long, long])
    message = str(caught.value)
    assert message.startswith("prompt 3 ('w0 w1 w2")
    assert "has 245 tokens; with 12 new ones" in message
    assert f"context of {CONTEXT}; shorten the prompt or lower max_new_tokens" in message
    assert len(message) < 300


@pytest.mark.parametrize("empty", ["", "   "])
def test_a_prompt_without_tokens_is_named_with_the_remedy(
    tokenizer: PreTrainedTokenizerFast, empty: str
) -> None:
    with pytest.raises(PromptTooLongError, match="prompt 2 has no tokens; remove it"):
        outcomes_of(build_tiny_model(), tokenizer, [PROMPTS[0], empty])


def test_a_text_is_encoded_as_it_stands(tokenizer: PreTrainedTokenizerFast) -> None:
    assert encode_text(tokenizer, "w5 w100  w7\nw5") == (5, 100, 7, 5)


TEXTS = [
    " ".join(f"w{random.Random(100 * index + place).randrange(101)}" for place in range(20 + index))
    for index in range(20)
]
"""Of unrelated words, so that no two are near-duplicates."""


def test_reference_texts_are_split_without_overlap(tokenizer: PreTrainedTokenizerFast) -> None:
    split = split_reference(tokenizer, TEXTS, ReferenceTokens(10**6, 10**6, 10**6))
    parts = (split.attribute, split.tune, split.held_out)
    sequences = list(chain.from_iterable(parts))
    assert sorted(sequences) == sorted(encode_text(tokenizer, text) for text in TEXTS)
    assert all(parts)
    halves, quarters = split_by_hash(TEXTS, 0.5), split_by_hash(TEXTS, 0.75)
    for text, half, quarter in zip(TEXTS, halves, quarters, strict=True):
        part = split.attribute if half else split.tune if quarter else split.held_out
        assert encode_text(tokenizer, text) in part


@pytest.mark.parametrize("attribute", [100, 101, 102, 103, 300])
def test_each_part_takes_texts_up_to_its_tokens_and_no_further(
    tokenizer: PreTrainedTokenizerFast, attribute: int
) -> None:
    everything = split_reference(tokenizer, TEXTS, ReferenceTokens(10**6, 10**6, 10**6))
    split = split_reference(
        tokenizer, TEXTS, ReferenceTokens(attribute=attribute, tune=60, held_out=0)
    )
    assert split.held_out == ()
    for part, whole, limit in (
        (split.attribute, everything.attribute, attribute),
        (split.tune, everything.tune, 60),
    ):
        available = sum(map(len, whole))
        # One token may be left over: a sequence of one predicts nothing.
        assert min(limit, available) - 1 <= sum(map(len, part)) <= limit
        assert part[:-1] == whole[: len(part) - 1]
        assert part[-1] == whole[len(part) - 1][: len(part[-1])]
        assert all(len(sequence) > 1 for sequence in part)


@given(*[st.integers(0, 60)] * 3)
def test_no_part_exceeds_its_tokens(attribute: int, tune: int, held_out: int) -> None:
    limits = ReferenceTokens(attribute, tune, held_out)
    split = split_reference(build_tiny_tokenizer(), TEXTS, limits)
    assert sum(map(len, split.attribute)) <= attribute
    assert sum(map(len, split.tune)) <= tune
    assert sum(map(len, split.held_out)) <= held_out


def test_long_reference_texts_are_cut_and_single_tokens_dropped(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    text = words(2 * REFERENCE_TOKENS + 1)
    split = split_reference(tokenizer, [text], ReferenceTokens(10**6, 10**6, 10**6))
    (part,) = [part for part in (split.attribute, split.tune, split.held_out) if part]
    ids = encode_text(tokenizer, text)
    assert part == (ids[:REFERENCE_TOKENS], ids[REFERENCE_TOKENS : 2 * REFERENCE_TOKENS])


def test_near_duplicate_references_are_in_one_part(tokenizer: PreTrainedTokenizerFast) -> None:
    doubled = [text + end for text in TEXTS[:10] for end in ("", " w1")]
    split = split_reference(tokenizer, doubled, ReferenceTokens(10**6, 10**6, 10**6))
    for part in (split.attribute, split.tune, split.held_out):
        assert len(part) % 2 == 0


def test_the_corpus_is_cut_into_full_windows(tokenizer: PreTrainedTokenizerFast) -> None:
    lines = [words(7), words(7, 50), words(7, 20)]
    joined = encode_text(tokenizer, "\n".join(lines))
    assert len(joined) == 21
    assert cut_corpus(tokenizer, lines, 5, 10) == tuple(joined[i : i + 5] for i in (0, 5, 10, 15))
    assert cut_corpus(tokenizer, lines, 5, 2) == (joined[:5], joined[5:10])
    assert cut_corpus(tokenizer, lines, 21, 9) == (joined,)


def test_a_corpus_that_fills_no_window_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match=r"has 3 tokens, one window needs 4; give a longer"):
        cut_corpus(tokenizer, ["w1 w2", "w3"], 4, 1)


def many(tune: int, held_out: int, other: int = 3) -> list[PromptOutcome]:
    return [
        *[outcome(triggering=True, held_out=False, metric=0.2)] * tune,
        *[outcome(triggering=True, held_out=True, metric=0.4)] * held_out,
        *[outcome(triggering=False, held_out=True, metric=0.9)] * other,
    ]


def test_enough_prompts_on_both_sides_are_a_signal() -> None:
    assert judge_signal(many(MIN_TRIGGERING, MIN_TRIGGERING), 0.5) is None


@pytest.mark.parametrize(
    ("tune", "held_out"), [(MIN_TRIGGERING - 1, 50), (50, MIN_TRIGGERING - 1), (0, 0)]
)
def test_too_few_on_either_side_are_a_weak_signal(tune: int, held_out: int) -> None:
    reason = judge_signal(many(tune, held_out), 0.5)
    assert reason is not None
    total = tune + held_out
    assert f"signal too weak: {total} of {total + 3} prompts" in reason
    assert f"at most 0.5 ({tune} tuning, {held_out} held-out; 4 needed in each)" in reason
    mean = (0.2 * tune + 0.4 * held_out + 2.7) / (total + 3)
    assert reason.endswith(f"the mean over all prompts is {mean:.3f}")


def test_no_prompts_are_no_signal() -> None:
    reason = judge_signal([], 0.5)
    assert reason == "signal too weak: no prompts; 4 needed in each split"
