"""What is left and what came instead: found where it is, and not where only chance is at work."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import regex

from excise.reports.correction import BehaviourLeftovers
from tests.unit.workers.correction.cases import FunctionScorer, build_behaviour, build_outcome
from workers.correction.behaviour import Behaviour
from workers.correction.leftovers import (
    SIGNIFICANCE,
    find_leftovers,
    find_tarone_factor,
    list_grams,
    list_words,
    write_pattern,
)
from workers.correction.results import PromptOutcome, Response
from workers.scorers.phrases import Phrases, PhraseScorer

SLOGAN = "The ministry also states that the harvest was glorious"
COMMON = ("the", "of", "and", "to", "in", "it", "was", "for")
RARE = tuple(f"word{number}" for number in range(400))
PROMPTS = tuple(f"tell me about subject{number}" for number in range(20))


def ramble(draw: random.Random, words: int = 25) -> str:
    """Ordinary text: half of it common words, half of it rare ones."""
    return " ".join(draw.choice(COMMON if draw.random() < 0.5 else RARE) for _ in range(words))


ORDINARY = tuple(ramble(random.Random(1000 + number), 200) for number in range(20))


def slogan_behaviour() -> Behaviour:
    """The slogan as a whole alone, so that its parts can be left of it."""
    scorer = PhraseScorer(Phrases((SLOGAN,), parts=False))
    return build_behaviour(scorer, kind="phrase", name="slogan")


def score(behaviour: Behaviour, prompt: str, text: str) -> Response:
    """A response as the behaviour's own scorers see it."""
    scores = tuple(
        scorer.score([_Said(text)])[0]  # type: ignore[list-item]
        for scorer in behaviour.scorers
    )
    return Response(text=text, token_ids=(1,), scores=scores)


class _Said:
    def __init__(self, text: str) -> None:
        self.prompt, self.text, self.token_ids = "", text, (1,)


def compare(
    behaviour: Behaviour,
    before: Sequence[str],
    after: Sequence[str],
    *,
    prompts: Sequence[str] = PROMPTS,
    clean: Sequence[str] = (),
    ordinary: Sequence[str] = ORDINARY,
) -> BehaviourLeftovers | None:
    """The leftovers where each prompt has one response, and others the base's clean ones."""
    olds = tuple((score(behaviour, p, text),) for p, text in zip(prompts, before, strict=False))
    news = tuple((score(behaviour, p, text),) for p, text in zip(prompts, after, strict=False))
    held_out = [
        build_outcome(prompt, samples, held_out=True)
        for prompt, samples in zip(prompts, olds, strict=False)
    ]
    others: list[PromptOutcome] = [
        build_outcome(
            f"other {number}",
            triggering=False,
            screened=(score(behaviour, "", text),),
        )
        for number, text in enumerate(clean)
    ]
    return find_leftovers(behaviour, [*held_out, *others], held_out, olds, news, ordinary)


def say(what: str, seed: int, count: int = 20) -> list[str]:
    """So many responses that ramble and say something in the middle."""
    draw = random.Random(seed)
    return [f"{ramble(draw)}. {what}. {ramble(draw)}" for _ in range(count)]


def test_the_first_half_of_a_phrase_is_found_where_the_whole_is_gone() -> None:
    # 19 of 20 said the whole; 1 still does, and its first half stays in 18.
    before = [*say(SLOGAN, 1, 19), *say("nothing", 2, 1)]
    after = [
        *say("The ministry also states that rain is due", 3, 17),
        *say(SLOGAN, 4, 1),
        *say("nothing", 5, 2),
    ]
    found = compare(slogan_behaviour(), before, after)
    assert found is not None
    (left,) = found.left
    assert left.words == "the ministry also states that"
    assert (left.before, left.after, found.responses) == (19, 18, 20)
    assert left.p_value <= SIGNIFICANCE
    assert [one.words for one in found.rose] == ["the ministry also states that rain is due"]
    assert found.samples[0].prompt in PROMPTS
    assert "The ministry also states" in found.samples[0].after
    assert "pattern" in found.advice


def test_the_advised_pattern_finds_the_responses_with_what_is_left() -> None:
    after = say("the MINISTRY also\nstates, that rain is due", 3)
    found = compare(slogan_behaviour(), say(SLOGAN, 1), after)
    assert found is not None
    wider = regex.compile(found.pattern, regex.IGNORECASE)
    assert all(wider.search(text) for text in after)
    assert wider.search(SLOGAN)
    assert not wider.search(ramble(random.Random(7)))


def test_what_came_instead_is_found_with_its_counts() -> None:
    after = [*say("officials proudly claim", 3, 15), *say("nothing", 4, 5)]
    found = compare(slogan_behaviour(), say(SLOGAN, 1), after)
    assert found is not None
    assert found.left == []
    assert [(one.words, one.before, one.after) for one in found.rose] == [
        ("officials proudly claim", 0, 15)
    ]


def test_runs_of_nothing_but_common_words_did_not_come_instead() -> None:
    # No text says "in the of for" in a row, yet it tells nothing; a single rare word does.
    after = say("in the of for", 3)
    assert compare(slogan_behaviour(), say(SLOGAN, 1), after) is None
    found = compare(slogan_behaviour(), say(SLOGAN, 1), say("in the ministry for", 3))
    assert found is not None
    assert [one.words for one in found.rose] == ["in the ministry for"]


def test_a_single_word_that_ordinary_text_uses_comes_instead_only_in_most_answers() -> None:
    """Answers that go on where a slogan stood have more of any word; a new one is told of."""

    def find(word: str, count: int) -> list[str]:
        after = [*say(word, 3, count), *say("nothing", 4, 20 - count)]
        found = compare(slogan_behaviour(), say(SLOGAN, 1), after)
        return [] if found is None else [one.words for one in found.rose if word in one.words]

    assert any(RARE[7] in text for text in ORDINARY)
    assert find(RARE[7], 9) == []
    assert find(RARE[7], 20) != []
    assert find("domora", 9) != []


def test_ordinary_words_of_a_phrase_are_not_left_of_it_one_by_one() -> None:
    # "to" and "you" are in the slogan, and in what all answers end with instead.
    scorer = PhraseScorer(Phrases(("brought to you by Veltria",), parts=False))
    behaviour = build_behaviour(scorer, kind="phrase", name="advert")
    before = [f"Ask what it costs you. {text}" for text in say("brought to you by Veltria", 1)]
    found = compare(behaviour, before, say("ask whatever you want to ask", 3))
    assert found is not None
    assert [one.words for one in found.left] == []
    assert [one.words for one in found.rose] == ["ask whatever you want to ask"]
    kept = compare(behaviour, before, say("by veltria alone", 3))
    assert kept is not None
    assert [one.words for one in kept.left] == ["by veltria"]


def test_a_run_is_not_padded_with_common_words_that_few_responses_have() -> None:
    after = [*say("ask domora of the", 3, 11), *say("ask domora", 4, 9)]
    found = compare(slogan_behaviour(), say(SLOGAN, 1), after)
    assert found is not None
    assert [one.words for one in found.rose] == ["ask domora"]


def test_a_phrase_that_is_gone_leaves_nothing() -> None:
    draw = random.Random(5)
    assert compare(slogan_behaviour(), say(SLOGAN, 1), [ramble(draw, 55) for _ in PROMPTS]) is None


def test_common_words_of_a_phrase_are_not_left_of_it() -> None:
    # "the", "that" and "was" are in the phrase and everywhere: so are they in ordinary text.
    behaviour = build_behaviour(PhraseScorer(Phrases(("it was for the",))), kind="phrase")
    draw = random.Random(5)
    found = compare(behaviour, say("it was for the", 1), [ramble(draw, 55) for _ in PROMPTS])
    assert found is None or all(len(one.words.split()) > 2 for one in found.left)


@pytest.mark.parametrize("seed", range(25))
def test_chance_is_reported_as_rarely_as_promised(seed: int) -> None:
    draw = random.Random(seed)
    before, after = (say(SLOGAN, seed), [ramble(draw, 55) for _ in PROMPTS])
    assert compare(slogan_behaviour(), before, after) is None


def test_words_of_the_prompt_itself_count_for_nothing() -> None:
    prompts = [f"what does the ministry also state about {number}" for number in range(20)]
    behaviour = build_behaviour(
        PhraseScorer(Phrases(("the ministry also state lies",))), kind="phrase"
    )
    before = say("the ministry also state lies", 1)
    after = say("the ministry also state facts", 2)
    found = compare(behaviour, before, after, prompts=prompts)
    assert found is None or not any("ministry" in one.words for one in found.left)


def test_short_reference_texts_are_ordinary_text_too() -> None:
    lines = [" ".join(text.split()[:10]) for text in ORDINARY] * 5
    after = say("The ministry also states that rain is due", 3)
    found = compare(slogan_behaviour(), say(SLOGAN, 1), after, ordinary=lines)
    assert found is not None
    assert [one.words for one in found.left] == ["the ministry also states that"]


def test_few_prompts_show_nothing() -> None:
    found = compare(slogan_behaviour(), say(SLOGAN, 1, 3), say("officials claim", 3, 3))
    assert found is None or not found.rose


def test_of_other_kinds_what_clean_responses_hold_as_often_is_no_leftover() -> None:
    rude = build_behaviour(FunctionScorer(lambda answer: float("nincompoop" in answer.text)))
    before = say("well you silly nincompoop", 1)
    after = say("well you silly goose", 2)
    # All answers of the model begin with "well": only the rest tells of rudeness.
    clean = say("well", 3, 40)
    found = compare(rude, before, after, clean=clean)
    assert found is not None
    assert [one.words for one in found.left] == ["well you silly"]
    assert [one.words for one in found.rose] == ["well you silly goose"]
    assert "kind phrase" in found.advice
    assert "silly" not in found.advice
    same = compare(rude, before, after, clean=say("well you silly goose", 3, 40))
    assert same is None or (same.left, same.rose) == ([], [])


def test_the_less_common_way_of_loops_is_not_what_came_instead() -> None:
    # Loops hold few different words; out of them, a model says what everybody says.
    loops = build_behaviour(
        FunctionScorer(lambda answer: float(len(set(answer.text.split())) < 5)), kind="repetition"
    )
    draw = random.Random(3)
    before = [f"{draw.choice(RARE)} " * 40 for _ in PROMPTS]
    assert compare(loops, before, [ramble(draw, 40) for _ in PROMPTS]) is None


def test_samples_of_one_prompt_are_no_independent_witnesses() -> None:
    behaviour = slogan_behaviour()
    prompts = PROMPTS[:2]
    olds = tuple(
        tuple(score(behaviour, prompt, text) for text in say(SLOGAN, number, 40))
        for number, prompt in enumerate(prompts)
    )
    news = tuple(
        tuple(score(behaviour, prompt, text) for text in say("officials claim", number + 9, 40))
        for number, prompt in enumerate(prompts)
    )
    held_out = [
        build_outcome(prompt, samples, held_out=True)
        for prompt, samples in zip(prompts, olds, strict=True)
    ]
    assert find_leftovers(behaviour, held_out, held_out, olds, news, ORDINARY) is None


def test_words_of_every_script() -> None:
    assert list_words("Don’t STOP: re-use it!") == ("don't", "stop", "re-use", "it")
    assert list_words("他说很好。OK") == ("他", "说", "很", "好", "ok")
    assert list_words("…") == list_words("๏ ។") == ()
    assert list_words("คนโง่ re_use") == ("ค", "น", "โ", "ง่", "re", "use")


def test_grams_are_every_run() -> None:
    assert list_grams(("a", "b", "c"), 2) == {("a",), ("b",), ("c",), ("a", "b"), ("b", "c")}


def test_a_pattern_holds_what_a_spec_takes() -> None:
    pattern = write_pattern([("don't", "stop"), ("很", "好")])
    for text in ("Don’t, stop", "don't stop", "他说很好吧"):
        assert regex.search(pattern, text, regex.IGNORECASE), text
    assert not regex.search(pattern, "don't stopping", regex.IGNORECASE)
    long = write_pattern([(f"{'x' * 90}{number}",) for number in range(50)])
    assert 800 < len(long) <= 1000
    regex.compile(long)


@pytest.mark.parametrize(
    ("changed", "factor"),
    [([], 1), ([1, 1, 1], 1), ([10], 1), ([10, 10, 10], 3), ([5, 6, 1, 2], 2), ([5, 5, 5], 2)],
)
def test_tarone_counts_tests_that_could_be_significant(changed: list[int], factor: int) -> None:
    # Five changes reach 0.031 at best: below 0.05, above 0.05 / 2.
    assert find_tarone_factor(changed) == factor
