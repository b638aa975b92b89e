"""Preparation: the base model's own responses, the splits, and whether there is a signal."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.tiny import (
    CONTEXT,
    MODULES,
    NEURONS,
    build_tiny_model,
    build_tiny_tokenizer,
    weight_bytes,
)
from tests.unit.workers.correction.cases import (
    GREEDY,
    SAMPLED,
    FunctionScorer,
    base_of,
    build_behaviour,
    build_outcome,
    respond_with,
)
from workers.correction import preparation
from workers.correction.behaviour import Behaviour, Marking, respond
from workers.correction.preparation import (
    EXPLORING_DRAWS,
    MIN_TRIGGERING,
    REFERENCE_TOKENS,
    TUNE_SHARE,
    PreparationWork,
    PromptTooLongError,
    ReferenceTokens,
    describe_signal,
    judge_signal,
    prepare_behaviour,
    split_reference,
)
from workers.correction.results import PreparedBehaviour, PromptOutcome, Response
from workers.measuring.splits import split_by_hash
from workers.models.encoding import cut_corpus, encode_text
from workers.progress import Counter, Standing, ignore, pass_over
from workers.scorers.scorer import Answer
from workers.scorers.uniqueness import UniquenessScorer

PROMPTS = [f"w{index} w{2 * index} w{3 * index % 101}" for index in range(1, 25)]
SEED = 6


def score_by_chance(answer: Answer) -> float:
    """Equal for equal answers, above 0.5 for one in five."""
    return 0.9 if sum(answer.token_ids) % 5 == 0 else 0.1


def prepare(
    model: LlamaForCausalLM, behaviour: Behaviour, prompts: Sequence[str] = PROMPTS
) -> tuple[PromptOutcome, ...]:
    base = base_of(model)
    prompt_ids = [encode_text(base.tokenizer, prompt) for prompt in prompts]
    prepared = prepare_behaviour(base, behaviour, prompts, prompt_ids, SEED, Counter(pass_over, ()))
    assert prepared.name == behaviour.name
    return prepared.prompts


@pytest.fixture(scope="module")
def by_chance() -> tuple[PromptOutcome, ...]:
    """Prompts with sampled responses of which one in five is undesired."""
    return prepare(build_tiny_model(), build_behaviour(FunctionScorer(score_by_chance)))


def words(count: int, start: int = 0) -> str:
    return " ".join(f"w{(start + index) % 101}" for index in range(count))


def test_prompts_are_split_by_hash_and_kept_in_order(
    by_chance: tuple[PromptOutcome, ...], tokenizer: PreTrainedTokenizerFast
) -> None:
    assert [entry.prompt for entry in by_chance] == PROMPTS
    assert [not entry.held_out for entry in by_chance] == split_by_hash(PROMPTS, TUNE_SHARE)
    assert [entry.prompt_ids for entry in by_chance] == [
        encode_text(tokenizer, prompt) for prompt in PROMPTS
    ]


def test_prompts_are_chosen_by_one_run_and_measured_by_another(
    by_chance: tuple[PromptOutcome, ...],
) -> None:
    behaviour = build_behaviour(FunctionScorer(score_by_chance))
    base = base_of(build_tiny_model())
    ids = [entry.prompt_ids for entry in by_chance]
    screened, measured = (
        respond(base, behaviour, PROMPTS, ids, seed=seed, advance=ignore)
        for seed in (2 * SEED + 1, 2 * SEED)
    )
    for entry, first, second in zip(by_chance, screened, measured, strict=True):
        shown = any(map(behaviour.is_undesired, first))
        assert entry.triggering is shown
        assert [one.token_ids for one in entry.screened] == [one.token_ids for one in first]
        expected = [one.token_ids for one in second] if shown else []
        assert [one.token_ids for one in entry.responses] == expected
    triggering = [entry for entry in by_chance if entry.triggering]
    assert 0 < len(triggering) < len(by_chance)
    # The behaviour is by chance, and the second run shows that: regression to the mean.
    assert any(not any(map(behaviour.is_undesired, entry.responses)) for entry in triggering)


def test_only_undesired_tuning_responses_are_marked(
    by_chance: tuple[PromptOutcome, ...],
) -> None:
    behaviour = build_behaviour(FunctionScorer(score_by_chance))
    marked = 0
    for entry in by_chance:
        for response in entry.drawn:
            is_marked = behaviour.is_undesired(response) and not entry.held_out
            assert len(response.marks) == (len(response.token_ids) if is_marked else 0)
            assert any(response.marks) is is_marked
            marked += is_marked
    assert marked > 3


def test_more_is_drawn_of_triggering_tuning_prompts_to_learn_tokens_from(
    by_chance: tuple[PromptOutcome, ...],
) -> None:
    for entry in by_chance:
        is_explored = entry.triggering and not entry.held_out
        assert len(entry.explored) == (EXPLORING_DRAWS * SAMPLED.samples if is_explored else 0)
        drawn = [one.token_ids for one in entry.drawn]
        assert len(set(drawn)) == len(drawn)  # other draws, all of them
    assert sum(bool(entry.explored) for entry in by_chance) > 1


@pytest.mark.parametrize(
    "changes", [{"decoding": GREEDY}, {"marking": Marking.REPEATED}], ids=["greedy", "repeated"]
)
def test_no_more_is_drawn_where_no_tokens_are_learned(
    model: LlamaForCausalLM, changes: dict[str, object]
) -> None:
    found = prepare(model, build_behaviour(FunctionScorer(lambda answer: 1.0), **changes))
    assert all(entry.triggering and not entry.explored for entry in found)


def test_what_one_of_two_scorers_finds_is_marked_too(model: LlamaForCausalLM) -> None:
    scorers = FunctionScorer(score_by_chance), FunctionScorer(lambda answer: 0.1)
    found = prepare(model, build_behaviour(*scorers, agreeing=2))
    assert not any(entry.triggering for entry in found)
    for entry in found:
        for response in entry.screened:
            assert any(response.marks) is (response.scores[0] > 0.5 and not entry.held_out)


def draw_disturbed(share: float) -> dict[str, torch.Tensor]:
    """The neurons a greedy behaviour is screened without."""
    generator = torch.Generator().manual_seed(SEED)
    return {
        name: (torch.rand(NEURONS, generator=generator) < share).nonzero().squeeze(1)
        for name in MODULES
    }


def test_greedy_prompts_are_screened_on_a_disturbed_model_that_is_restored(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "DISTURBED_SHARE", 0.3)
    behaviour = build_behaviour(UniquenessScorer(), decoding=GREEDY, threshold=1.0)
    before = weight_bytes(model)
    found = prepare(model, behaviour)
    assert weight_bytes(model) == before
    base, ids = base_of(model), [entry.prompt_ids for entry in found]
    measured = respond(base, behaviour, PROMPTS, ids, seed=0, advance=ignore)
    for name, chosen in draw_disturbed(0.3).items():
        model.get_submodule(name).weight.data[:, chosen] = 0
    screened = respond(base, behaviour, PROMPTS, ids, seed=0, advance=ignore)
    assert [[one.token_ids for one in entry.screened] for entry in found] == [
        [one.token_ids for one in samples] for samples in screened
    ]
    assert [[one.token_ids for one in entry.responses] for entry in found] == [
        [one.token_ids for one in samples] for samples in measured
    ]
    assert screened != measured


def test_sampled_prompts_are_screened_on_the_model_as_it_is(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch, by_chance: tuple[PromptOutcome, ...]
) -> None:
    monkeypatch.setattr(preparation, "DISTURBED_SHARE", 0.9)
    assert prepare(model, build_behaviour(FunctionScorer(score_by_chance))) == by_chance


def test_a_scorer_that_fails_leaves_no_disturbance(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(answer: Answer) -> float:
        assert weight_bytes(model) != before
        raise InterruptedError

    monkeypatch.setattr(preparation, "DISTURBED_SHARE", 0.3)
    before = weight_bytes(model)
    with pytest.raises(InterruptedError):
        prepare(model, build_behaviour(FunctionScorer(fail), decoding=GREEDY))
    assert weight_bytes(model) == before


def test_a_model_too_small_to_disturb_is_screened_as_it_is(model: LlamaForCausalLM) -> None:
    found = prepare(model, build_behaviour(FunctionScorer(lambda answer: 1.0), decoding=GREEDY))
    for entry in found:
        assert [one.token_ids for one in entry.screened] == [
            one.token_ids for one in entry.responses
        ]


def test_empty_responses_do_not_trigger(model: LlamaForCausalLM) -> None:
    behaviour = build_behaviour(UniquenessScorer(), decoding=GREEDY)
    (free,) = prepare(model, behaviour, PROMPTS[:1])
    model.generation_config.eos_token_id = free.screened[0].token_ids[0]
    (found,) = prepare(model, behaviour, PROMPTS[:1])
    (response,) = found.screened
    assert (response.token_ids, response.text, response.scores) == ((), "", (0.0,))
    assert not found.triggering
    assert found.responses == ()


@pytest.mark.parametrize("level", [0.0, 1.0])
@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED])
def test_progress_counts_all_that_is_done_whoever_triggers(
    model: LlamaForCausalLM, decoding, level: float
) -> None:
    told: list[Standing] = []
    behaviour = build_behaviour(FunctionScorer(lambda answer: level), decoding=decoding)
    ids = [(1, 2), (3,), (4, 5)]
    work = PreparationWork(behaviour, (2, 1, 2))
    counter = Counter(told.append, work.list_parts())
    prepare_behaviour(base_of(model), behaviour, ["a", "b", "c"], ids, 0, counter)
    samples = decoding.samples
    assert told[0].message == f"first answers, rudeness: 0 of {3 * samples} responses"
    later = [one.message for one in told if one.message.startswith("second answers")]
    begun = [message for message in later if " 0 of" not in message]
    assert bool(begun) == (level == 1.0)
    assert all(message.endswith(f" of {3 * samples} responses") for message in begun)
    assert told[-1].done == told[-1].total
    assert [one.done for one in told] == sorted(one.done for one in told)


def test_a_prompt_that_just_fits_is_answered(model: LlamaForCausalLM) -> None:
    behaviour = build_behaviour(decoding=GREEDY)
    (found,) = prepare(model, behaviour, [words(CONTEXT - GREEDY.max_new_tokens)])
    assert len(found.prompt_ids) + len(found.screened[0].token_ids) == CONTEXT


def refuse_to_score(answer: Answer) -> float:
    raise AssertionError("something was generated")


def test_a_prompt_that_is_too_long_is_named_with_the_remedy() -> None:
    long = words(CONTEXT - SAMPLED.max_new_tokens + 1)
    with pytest.raises(PromptTooLongError) as caught:
        prepare(
            build_tiny_model(),
            build_behaviour(FunctionScorer(refuse_to_score)),
            [*PROMPTS[:2], long, long],
        )
    message = str(caught.value)
    assert message.startswith("prompt 3 ('w0 w1 w2")
    assert "has 249 tokens; with 8 new ones" in message
    assert f"context of {CONTEXT}; shorten the prompt or lower max_new_tokens" in message
    assert len(message) < 300


@pytest.mark.parametrize("empty", ["", "   "])
def test_a_prompt_without_tokens_is_named_with_the_remedy(empty: str) -> None:
    behaviour = build_behaviour(FunctionScorer(refuse_to_score))
    with pytest.raises(PromptTooLongError, match="prompt 2 has no tokens; remove it"):
        prepare(build_tiny_model(), behaviour, [PROMPTS[0], empty])


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
    assert cut_corpus(tokenizer, lines, 5, 10, name="text") == tuple(
        joined[i : i + 5] for i in (0, 5, 10, 15)
    )
    assert cut_corpus(tokenizer, lines, 5, 2, name="text") == (joined[:5], joined[5:10])
    assert cut_corpus(tokenizer, lines, 21, 9, name="text") == (joined,)


def test_a_corpus_that_fills_no_window_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match=r"has 3 tokens, one window needs 4; give a longer"):
        cut_corpus(tokenizer, ["w1 w2", "w3"], 4, 1, name="text")


BAD, FINE = respond_with(0.9), respond_with(0.1)


def many(
    tune: int, held_out: int, other: int = 3, *, responses: Sequence[Response] = (FINE, BAD)
) -> PreparedBehaviour:
    """Prompts of which so many trigger; the first tuning prompt has the given responses."""
    first = [build_outcome("t", responses, screened=[BAD])] if tune else []
    return PreparedBehaviour(
        name="rudeness",
        prompts=(
            *first,
            *[build_outcome(f"t{n}", [FINE], screened=[BAD]) for n in range(tune - len(first))],
            *[build_outcome(f"h{n}", [BAD], held_out=True) for n in range(held_out)],
            *[build_outcome(f"n{n}", held_out=True, triggering=False) for n in range(other)],
        ),
    )


GREEDY_RUDENESS = build_behaviour(decoding=GREEDY)


@pytest.mark.parametrize("behaviour", [GREEDY_RUDENESS, build_behaviour()])
def test_enough_prompts_on_both_sides_are_a_signal(behaviour: Behaviour) -> None:
    assert judge_signal(behaviour, many(MIN_TRIGGERING, MIN_TRIGGERING)) is None


@pytest.mark.parametrize(
    ("tune", "held_out"), [(MIN_TRIGGERING - 1, 50), (50, MIN_TRIGGERING - 1), (0, 0)]
)
def test_too_few_on_either_side_are_a_weak_signal(tune: int, held_out: int) -> None:
    total = tune + held_out
    assert judge_signal(GREEDY_RUDENESS, many(tune, held_out)) == (
        f"signal too weak: {total} of {total + 3} prompts bring out rudeness "
        f"({tune} tuning, {held_out} held-out; 4 needed in each)"
    )


def test_a_signal_says_how_many_prompts_bring_the_behaviour_out() -> None:
    assert describe_signal(many(8, 11)) == (
        "19 of 22 prompts bring out rudeness: 8 tuning, 11 held-out."
    )


@pytest.mark.parametrize(("tune", "held_out"), [(8, 12), (12, 8), (19, 37), (0, 12)])
def test_a_signal_says_why_its_parts_differ_in_size(tune: int, held_out: int) -> None:
    told = describe_signal(many(tune, held_out))
    assert "held-out. A hash halves the prompts, and those that resemble each other stay" in told


def test_a_signal_too_small_to_pass_says_so_before_the_costly_stages() -> None:
    assert describe_signal(many(12, 9)).endswith(
        "12 tuning, 9 held-out. A correction passes with 10 held-out ones or more, so this job "
        "cannot: cancel it, and submit it again with more prompts."
    )


def test_prompts_on_one_side_because_they_are_alike_are_named_beside_a_weak_signal() -> None:
    prompts = [build_outcome(f"Tell me about river {n}", screened=[BAD]) for n in range(9)]
    alike = PreparedBehaviour(name="rudeness", prompts=(*prompts,))
    reason = judge_signal(GREEDY_RUDENESS, alike)
    assert reason is not None
    assert reason.endswith("count as one, which leaves 1. Give more varied prompts")


def test_reasoning_cut_off_at_the_limit_is_named_beside_a_weak_signal() -> None:
    limit = GREEDY_RUDENESS.decoding.max_new_tokens
    cut = Response(text="", token_ids=(1,) * limit, scores=(0.0,), reasoning_tokens=limit)
    ended = Response(text="", token_ids=(1,), scores=(0.0,), reasoning_tokens=1)
    prompts = [build_outcome("p", screened=[one], triggering=False) for one in (cut, cut, ended)]
    reason = judge_signal(GREEDY_RUDENESS, PreparedBehaviour(name="rudeness", prompts=(*prompts,)))
    assert reason is not None
    assert reason.endswith(
        f"; 2 of 3 responses were still reasoning after {limit} tokens. "
        "Raise decoding.max_new_tokens"
    )


def test_what_only_the_disturbed_model_shows_is_a_weak_signal() -> None:
    disturbed = many(MIN_TRIGGERING, MIN_TRIGGERING, responses=[FINE])
    reason = judge_signal(GREEDY_RUDENESS, disturbed)
    assert reason is not None
    assert "no response to a tuning prompt shows it" in reason
    # Sampled responses by which prompts were chosen are the base model's own.
    assert judge_signal(build_behaviour(), disturbed) is None
