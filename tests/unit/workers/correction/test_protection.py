"""What a search must keep: which probes it learns from, and a team's own texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.tiny import build_tiny_tokenizer
from tests.unit.workers.abilities.tokenizers import build_byte_tokenizer
from tests.unit.workers.models.test_encoding import BEGINS, BOS, build_tokenizer
from workers.abilities.catalogue import SLICES, Drawing, build_slices
from workers.abilities.probe import Probe, SliceKind
from workers.abilities.probe import probe as make_probe
from workers.abilities.source import Purpose, Source
from workers.correction.protection import (
    CONTINUATIONS,
    LEARN,
    LEARN_SEED,
    SET_LEARN_TOKENS,
    SET_TOKENS,
    SET_TUNE_TOKENS,
    TUNE,
    TUNE_SEED,
    TUNE_TIMES,
    list_learned,
    protect_answers,
    protect_continuations,
    protect_slices,
    protect_texts,
    restore,
    unite_learned,
)
from workers.correction.results import (
    Closing,
    PreparedBehaviour,
    PromptOutcome,
    ProtectedSample,
    ProtectedSlice,
    Response,
    SliceDamage,
)
from workers.domain import TokenSequence

BYTES = build_byte_tokenizer()
KINDS = tuple(kind for kind in SLICES if kind.name in ("words", "lists_in_lines", "chat_repeat"))


def protect(
    kinds: Sequence[SliceKind] = KINDS, seed: int = 0, **options: int
) -> dict[str, ProtectedSlice]:
    limits = {
        kind.name: SliceDamage(nats_rise=0.1 + place, accuracy_fall=0.05)
        for place, kind in enumerate(kinds)
    }
    return {own.name: own for own in protect_slices(BYTES, seed, kinds, limits, **options)}


def texts_of(samples: Sequence[ProtectedSample]) -> list[tuple[int, ...]]:
    return [sample.prompt_ids + sample.response_ids for sample in samples]


def marked(sample: ProtectedSample) -> str:
    pairs = zip(sample.response_ids, sample.marks, strict=True)
    return BYTES.decode([token for token, mark in pairs if mark])


def test_every_slice_has_its_limit_and_items_to_learn_from_and_to_measure_on() -> None:
    found = protect()
    assert list(found) == [kind.name for kind in KINDS]
    assert [own.limit.nats_rise for own in found.values()] == pytest.approx([0.1, 1.1, 2.1])
    for kind in KINDS:
        own = found[kind.name]
        assert len(set(texts_of(own.learn))) * kind.items >= LEARN.items
        assert sum(len(sample.spans) for sample in own.tune) >= TUNE.items
        assert all(sum(sample.marks) == sum(sample.spans) for sample in own.tune)


def test_a_slice_of_short_answers_has_more_items() -> None:
    """So that few tokens tell of it no less than of others; as far as there are different ones."""
    kinds = tuple(kind for kind in SLICES if kind.name in ("opposites", "sums", "words"))

    def answer_in_one(source: Source) -> Probe:
        return make_probe("w1 w2", f" w{source.number(3, 60)}")

    def answer_once(source: Source) -> Probe:
        return make_probe("w1 w2", " w3")

    short = replace(kinds[0], name="short", draw=answer_in_one, items=1)
    single = replace(kinds[0], name="single", draw=answer_once, items=1)
    limits = {name: SliceDamage(nats_rise=0.1, accuracy_fall=0.05) for name in ("short", "single")}
    found = {
        own.name: own for own in protect_slices(build_tiny_tokenizer(), 0, (short, single), limits)
    }
    # There are 58 answers in all: learning takes its share, measuring whatever there is.
    assert len(found["short"].learn) == LEARN.targets
    assert 50 <= len(found["short"].tune) <= 58 < TUNE.targets
    assert len(found["single"].learn) == len(found["single"].tune) == 1
    for own in protect(kinds).values():
        assert sum(map(sum, (sample.marks for sample in own.learn))) >= 0.9 * LEARN.targets
        assert sum(map(sum, (sample.marks for sample in own.tune))) >= 0.9 * TUNE.targets
        assert sum(map(len, texts_of(own.tune))) >= 0.9 * TUNE.tokens
    more = protect(kinds)["opposites"].tune
    first = build_slices(BYTES, Purpose.PROTECTION, TUNE_SEED, TUNE.items, kinds)["opposites"]
    assert tuple(restore(more))[: len(first)] == first
    assert len({sample.response_ids for sample in more}) > len(first) / 2


def test_learning_tuning_and_verdict_draw_different_probes_of_every_seed() -> None:
    seen: set[tuple[int, ...]] = set()
    for seed in range(3):
        verdicts = build_slices(BYTES, Purpose.VERDICT, seed, kinds=KINDS)
        for name, own in protect(seed=seed).items():
            verdict = {probe.sample.token_ids for probe in verdicts[name]}
            learned = set(texts_of(own.with_more().learn))
            for drawn in (verdict, learned, set(texts_of((*own.tune, *own.tune_more)))):
                assert not drawn & seen
                seen |= drawn
    seeds = [3 * seed + offset for seed in range(50) for offset in (LEARN_SEED, TUNE_SEED)]
    assert len(set(seeds)) == len(seeds)


def test_there_is_as_much_again_to_learn_from() -> None:
    for own in protect().values():
        first, further = set(texts_of(own.learn)), set(texts_of(own.more))
        assert not first & further
        assert 0.5 * len(first) <= len(further) <= len(first)
        whole = own.with_more()
        assert whole.learn == (*own.learn, *own.more)
        assert (whole.more, whole.tune, whole.limit) == ((), own.tune, own.limit)


def test_there_are_twice_as_many_further_items_to_measure_on() -> None:
    for own in protect().values():
        first, further = set(texts_of(own.tune)), set(texts_of(own.tune_more))
        assert not first & further
        assert len(further) == pytest.approx((TUNE_TIMES - 1) * len(first), rel=0.3)


@pytest.mark.parametrize("sizes", [(10, 40), (40, 10, 25)])
@pytest.mark.parametrize("longest", [None, 120])
def test_whatever_is_drawn_in_between_the_first_probes_are_the_same(
    sizes: Sequence[int], longest: int | None
) -> None:
    purpose = Purpose.PROTECTION
    drawing = Drawing(BYTES, purpose, 4, SLICES, longest)
    for items in sizes:
        assert drawing.take(items) == build_slices(BYTES, purpose, 4, items, SLICES, longest)
    assert set(drawing.take(5, ["words"])) <= {"words"}


def test_no_probe_is_drawn_twice_to_learn_from_and_to_measure_on() -> None:
    drawn: list[Probe] = []
    (words,) = (kind for kind in KINDS if kind.name == "words")

    def draw(source: Source) -> Probe:
        drawn.append(words.draw(source))
        return drawn[-1]

    (own,) = protect((replace(words, draw=draw),)).values()
    learned = set(texts_of(own.with_more().learn))
    assert len(drawn) == len(set(drawn)) == len(learned) + len(own.tune) + len(own.tune_more)


def test_learning_tells_words_from_what_stands_between_them() -> None:
    """A list's words, its line breaks and its marks each have a lead of their own."""
    own = protect()["lists_in_lines"]
    whole = {text: set() for text in texts_of(own.learn)}
    for sample, text in zip(own.learn, texts_of(own.learn), strict=True):
        told = marked(sample)
        kinds = {
            "word" if letter.isalnum() else "break" if letter == "\n" else "mark" for letter in told
        }
        assert len(kinds) == 1
        assert sample.spans != ()
        whole[text] |= kinds
    assert all({"word", "break"} <= kinds for kinds in whole.values())
    # Between words of a chat's answer there are spaces alone; no sample stands for breaks.
    for sample in protect()["chat_repeat"].learn:
        assert any(sample.marks)
        assert "\n" not in marked(sample)


def test_parts_of_a_probe_are_all_of_its_targets_and_none_twice() -> None:
    own = protect()["lists_in_lines"]
    learnt = build_slices(BYTES, Purpose.PROTECTION, LEARN_SEED, LEARN.items, KINDS)
    for probe in learnt["lists_in_lines"]:
        parts = [
            sample.marks
            for sample, text in zip(own.learn, texts_of(own.learn), strict=True)
            if text == probe.sample.token_ids
        ]
        assert len(parts) > 1
        counts = [sum(marks) for marks in zip(*parts, strict=True)]
        assert counts == [int(mark) for mark in probe.sample.is_explained]


def test_slices_of_which_nothing_can_be_asked_are_not_protected() -> None:
    assert "chat_repeat" in protect(longest=200)
    assert protect(longest=3) == {}
    limits = {kind.name: SliceDamage(nats_rise=0.1, accuracy_fall=0.05) for kind in SLICES}
    found = protect_slices(build_tiny_tokenizer(), 0, SLICES, limits)
    assert [own.name for own in found] == ["random_tokens"]
    assert found[0].learn
    assert found[0].tune


def test_stored_samples_become_probes_again() -> None:
    own = protect()["words"]
    drawn = build_slices(BYTES, Purpose.PROTECTION, TUNE_SEED, TUNE.items, KINDS)["words"]
    assert tuple(restore(own.tune)) == drawn
    slices = list(protect().values())
    learnt = list_learned(slices)
    assert [sample.token_ids for sample in learnt] == [
        text for one in slices for text in texts_of(one.learn)
    ]
    assert [sample.is_explained for sample in learnt] == [
        sample.marks for one in slices for sample in one.learn
    ]


def test_parts_of_one_text_are_read_once_with_all_that_is_marked() -> None:
    def sample(*marks: bool, prompt: int = 1) -> ProtectedSample:
        return ProtectedSample(
            prompt_ids=(prompt,), response_ids=(2, 3, 4), spans=(3,), marks=marks
        )

    def slice_of(name: str, *learn: ProtectedSample) -> ProtectedSlice:
        limit = SliceDamage(nats_rise=0.1, accuracy_fall=0.05)
        return ProtectedSlice(name=name, limit=limit, learn=learn, tune=())

    words = slice_of("words", sample(True, False, False), sample(False, False, True))
    lists = slice_of("lists", sample(False, True, False, prompt=9))
    assert unite_learned([words, lists]) == [
        TokenSequence((1,), (2, 3, 4), (True, False, True)),
        TokenSequence((9,), (2, 3, 4), (False, True, False)),
    ]
    assert unite_learned([]) == []


# --- a team's own text -------------------------------------------------------------------------


def text_of(length: int, start: int = 1) -> str:
    return " ".join(f"w{start + place % 40}" for place in range(length))


def test_every_other_text_is_learned_from_and_the_rest_measured_on() -> None:
    texts = [text_of(4 + place, start=10 * place + 1) for place in range(5)]
    found = protect_texts(build_tiny_tokenizer(), "contracts", texts, 0.07)
    assert found.name == "contracts"
    assert found.limit == SliceDamage(nats_rise=0.07, accuracy_fall=1.0)
    assert [sample.prompt_ids for sample in found.learn] == [(1,), (21,), (41,)]
    assert [sample.prompt_ids for sample in found.tune] == [(11,), (31,)]
    for sample in (*found.learn, *found.tune):
        assert len(sample.prompt_ids) == 1
        assert sample.marks == (True,) * len(sample.response_ids)
        assert sample.spans == (len(sample.response_ids),)
    assert found.tune[0].response_ids == (12, 13, 14, 15)


def test_long_texts_are_cut_and_no_more_than_needed_is_taken() -> None:
    texts = [text_of(1000), text_of(3000)]
    found = protect_texts(build_tiny_tokenizer(), "contracts", texts, 0.1)
    assert max(map(len, texts_of(found.learn))) == SET_TOKENS
    assert sum(map(len, texts_of(found.learn))) == SET_LEARN_TOKENS
    assert sum(map(len, texts_of(found.tune))) == SET_TUNE_TOKENS


def test_what_a_tokenizer_puts_first_is_given() -> None:
    found = protect_texts(build_tokenizer(BEGINS), "contracts", ["w1 w2", "w3 w4"], 0.1)
    assert found.learn[0].prompt_ids == (BOS,)
    assert found.learn[0].response_ids == (1, 2)


@pytest.mark.parametrize("texts", [[], ["w1 w2 w3"], ["w1 w2", "w3"], ["w3", "w1 w2"], ["", ""]])
def test_a_set_without_text_for_either_use_is_refused(texts: list[str]) -> None:
    with pytest.raises(ValueError, match=r"protect\.sets: contracts needs two texts.*Give more"):
        protect_texts(build_tiny_tokenizer(), "contracts", texts, 0.1)


def answer(prompt_id: int, said: int, ends: bool = True) -> PromptOutcome:
    """A tuning prompt: one token of reasoning, then so many before the phrase, which may end it."""
    response = Response(
        text="",
        token_ids=tuple(range(said + 3)),
        scores=(1.0,),
        reasoning_tokens=1,
        closing=Closing(tokens=said + 1, characters=0) if ends else None,
    )
    return PromptOutcome(
        prompt="",
        prompt_ids=(prompt_id,),
        held_out=False,
        screened=(response,),
        triggering=True,
        responses=(response,),
    )


def test_what_answers_say_before_a_phrase_that_ends_them_is_kept() -> None:
    prompts = (answer(1, 3), answer(2, 2), answer(3, 0), answer(4, 4, ends=False), answer(5, 1))
    found = protect_answers(PreparedBehaviour(name="advert", prompts=prompts))
    assert found is not None
    assert found.name == "answers.advert"
    # Of the third nothing is left, and the fourth goes on after the phrase.
    assert [(own.prompt_ids, own.response_ids) for own in found.learn] == [((1, 0), (1, 2, 3))]
    assert [(own.prompt_ids, own.response_ids) for own in found.tune] == [
        ((2, 0), (1, 2)),
        ((5, 0), (1,)),
    ]
    assert all(all(own.marks) and own.spans == (len(own.marks),) for own in found.learn)


def test_without_such_answers_nothing_is_kept() -> None:
    prompts = (answer(1, 3, ends=False), answer(2, 3))
    assert protect_answers(PreparedBehaviour(name="advert", prompts=prompts)) is None


def test_continuations_are_kept_without_what_closes_them() -> None:
    rows = [(outcome.prompt_ids, outcome.responses[0]) for outcome in (answer(1, 2), answer(2, 1))]
    found = protect_continuations(rows[:1], rows[1:])
    assert found is not None
    assert found.name == CONTINUATIONS
    assert [own.response_ids for own in (*found.learn, *found.tune)] == [(1, 2), (1,)]
    assert protect_continuations(rows, []) is None
