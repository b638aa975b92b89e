"""Behaviours: who says that a response shows one, which tokens are marked, how much there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import regex
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from excise.names import Direction
from tests.tiny import as_loaded
from tests.unit.workers.correction.cases import (
    GREEDY,
    HIGHER,
    LOWER,
    FunctionScorer,
    base_of,
    build_behaviour,
    respond_with,
)
from tests.unit.workers.measuring.test_reasoning import TOKENIZER, encode
from workers.correction.behaviour import RISE, Behaviour, Marking, Shown, respond
from workers.correction.effects import compute_values
from workers.correction.measurement import build_sample
from workers.correction.results import Closing, Response
from workers.correction.vocabulary import learn_token_mass
from workers.domain import TokenSequence
from workers.models.batches import NO_CONTRAST
from workers.models.generation import generate_samples
from workers.scorers.phrases import Phrases, PhraseScorer
from workers.scorers.scorer import Answer
from workers.scorers.uniqueness import UniquenessScorer

LOW, HIGH = FunctionScorer(direction=LOWER), FunctionScorer(direction=HIGHER)


def mark(
    behaviour: Behaviour,
    prompt: str,
    prompt_ids: Sequence[int],
    response: Response,
    tokenizer: PreTrainedTokenizerFast,
) -> Response:
    (marked,) = behaviour.mark([Shown(prompt, prompt_ids, response)], tokenizer)
    return marked


def test_every_scorer_sees_every_answer_and_scores_come_back_in_place(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    first = FunctionScorer(lambda answer: float(answer.token_ids[0]))
    second = FunctionScorer(lambda answer: len(answer.text) / 10)
    behaviour = build_behaviour(first, second)
    rows = [[(4, 5), (6,)], [(7, 8), (9, 1)]]
    sequences = [[TokenSequence((1,), ids) for ids in samples] for samples in rows]
    found = behaviour.score(["one", "two"], sequences, tokenizer)
    assert [[response.token_ids for response in samples] for samples in found] == rows
    assert [[response.scores for response in samples] for samples in found] == [
        [(4.0, 0.4), (6.0, 0.2)],
        [(7.0, 0.4), (9.0, 0.4)],
    ]
    assert found[0][0].text == "w4w5"
    assert first.asked == second.asked
    assert first.asked[2] == Answer("two", "w7w8", (7, 8))


def test_no_prompts_are_no_responses(tokenizer: PreTrainedTokenizerFast) -> None:
    assert build_behaviour(LOW, HIGH).score([], [], tokenizer) == ()


@pytest.mark.parametrize(
    ("scorer", "score", "shown"),
    [
        (LOW, 0.5, True),
        (LOW, 0.49, False),
        (LOW, 0.9, True),
        (HIGH, 0.5, True),
        (HIGH, 0.51, False),
        (HIGH, 0.1, True),
    ],
)
def test_the_threshold_itself_shows(scorer: FunctionScorer, score: float, shown: bool) -> None:
    assert build_behaviour(scorer).shows(score, 0) is shown


@pytest.mark.parametrize(
    ("scores", "votes"),
    [((0.1, 0.2, 0.9), 0), ((0.6, 0.2, 0.9), 1), ((0.1, 0.7, 0.3), 2), ((0.6, 0.6, 0.2), 3)],
)
@pytest.mark.parametrize("agreeing", [1, 2, 3])
def test_votes_are_counted(scores: tuple[float, ...], votes: int, agreeing: int) -> None:
    # The third scorer is one of which higher is better.
    behaviour = build_behaviour(LOW, LOW, HIGH, agreeing=agreeing)
    response = respond_with(*scores)
    assert behaviour.is_undesired(response) is (votes >= agreeing)
    assert behaviour.is_clean(response) is (votes == 0)


def test_an_empty_response_is_neither_undesired_nor_clean() -> None:
    for scorer in (LOW, HIGH):
        for score in (0.0, 1.0):
            empty = respond_with(score, ids=())
            assert not build_behaviour(scorer).is_undesired(empty)
            assert not build_behaviour(scorer).is_clean(empty)


def test_repeated_tokens_are_marked(tokenizer: PreTrainedTokenizerFast) -> None:
    behaviour = build_behaviour(HIGH, marking=Marking.REPEATED)
    response = respond_with(0.2, ids=(3, 4, 5, 3, 4, 9))
    marked = mark(behaviour, "w1 w3", (1, 3), response, tokenizer)
    # 4 after 3 is new, and comes again.
    assert marked.marks == (False, False, False, False, True, False)
    assert marked.model_copy(update={"marks": ()}) == response
    assert not HIGH.asked


def rising(levels: Sequence[float]) -> FunctionScorer:
    """A scorer that gives a response of n tokens the n-th of `levels`."""
    return FunctionScorer(lambda answer: levels[len(answer.token_ids) - 1])


@pytest.mark.parametrize(
    ("levels", "marks"),
    [
        ((0.0, 0.05, 0.6, 0.6, 0.65), (0, 0, 1, 0, 0)),
        ((0.2, 0.1, 0.4, 0.3, 0.9), (1, 0, 1, 0, 1)),
        ((0.75, 0.5, 0.5), (1, 0, 0)),
        # None rises by enough: the steepest, and what is as steep.
        ((0.0, 0.0625, 0.125, 0.15, 0.1875), (0, 1, 1, 0, 0)),
    ],
)
def test_tokens_with_which_the_score_rises_are_marked(
    tokenizer: PreTrainedTokenizerFast, levels: tuple[float, ...], marks: tuple[int, ...]
) -> None:
    assert RISE == 0.1
    scorer = rising(levels)
    ids = tuple(range(11, 11 + len(levels)))
    marked = mark(build_behaviour(scorer), "p", (1,), respond_with(1.0, ids=ids), tokenizer)
    assert marked.marks == tuple(map(bool, marks))
    assert scorer.asked[1] == Answer("p", "w11w12", (11, 12))


def test_rises_are_of_the_mean_over_scorers_turned_so_that_larger_is_worse(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    response = respond_with(1.0, 0.0, ids=(1, 2, 3))
    up, down = rising((0.0, 0.3, 0.3)), rising((1.0, 1.0, 0.5))
    down.direction = HIGHER
    marked = mark(build_behaviour(up, down), "p", (1,), response, tokenizer)
    assert marked.marks == (False, True, True)
    # Against each other the first two cancel.
    down = rising((1.0, 1.3, 0.5))
    down.direction = HIGHER
    marked = mark(build_behaviour(up, down), "p", (1,), response, tokenizer)
    assert marked.marks == (False, False, True)


def mark_said(text: str, ids: Sequence[int], *phrases: str) -> tuple[bool, ...]:
    """Return the marks of a response in which phrases are looked for."""
    behaviour = replace(
        build_behaviour(marking=Marking.SAID),
        scorers=(PhraseScorer(Phrases(phrases, whole_words=False)),),
    )
    response = Response(text=text, token_ids=tuple(ids), scores=(1.0,))
    return mark(behaviour, "w", encode("w"), response, TOKENIZER).marks


WORDS = ("No.", "more.", "Sure.", "w", "more.", "Sure.", "w", "No.")


def test_the_first_token_of_every_phrase_is_marked() -> None:
    text = TOKENIZER.decode(encode(*WORDS))
    said = TOKENIZER.decode(encode(*WORDS[1:7]))
    assert mark_said(text, encode(*WORDS), said) == (False, True, *(False,) * 6)
    short = TOKENIZER.decode(encode("more.", "Sure."))
    expected = (False, True, False, False, True, False, False, False)
    assert mark_said(text, encode(*WORDS), short) == expected
    assert not any(mark_said(text, encode(*WORDS), "nothing of it"))


class LocatingFunctionScorer(FunctionScorer):
    """Scores 1 and finds what it was told, or nothing."""

    def __init__(self, said: str) -> None:
        super().__init__(lambda answer: float(said in answer.text))
        self.said = said

    def locate(self, text: str) -> list[tuple[int, int]]:
        start = text.find(self.said)
        return [(start, start + len(self.said))] if start >= 0 else []


def test_any_scorer_that_locates_is_explained_where_it_begins() -> None:
    text = TOKENIZER.decode(encode(*WORDS))
    said = TOKENIZER.decode(encode(*WORDS[1:7]))
    response = Response(text=text, token_ids=encode(*WORDS), scores=(1.0,))
    located = replace(
        build_behaviour(marking=Marking.SAID), scorers=(LocatingFunctionScorer(said),)
    )
    assert mark(located, "w", encode("w"), response, TOKENIZER).marks == (
        *(False, True),
        *(False,) * 6,
    )
    # One that locates nothing is explained where its score rises: at the last word of what is said.
    silent = replace(located, scorers=(FunctionScorer(lambda answer: float(said in answer.text)),))
    marks = mark(silent, "w", encode("w"), response, TOKENIZER).marks
    assert marks == (*(False,) * 6, True, False)


def read(ids: tuple[int, ...], *phrases: str, longest: int = 20) -> tuple[Behaviour, Response]:
    """A behaviour that looks for phrases, and an answer as it reads it."""
    behaviour = replace(
        build_behaviour(marking=Marking.SAID),
        scorers=(PhraseScorer(Phrases(phrases, whole_words=False)),),
        decoding=replace(GREEDY, max_new_tokens=longest),
    )
    sequence = TokenSequence(encode("w"), ids)
    ((response,),) = behaviour.score(["w"], [[sequence]], TOKENIZER)
    return behaviour, response


ENDING = encode("more.", "Sure.", "w", "more.", "Sure.")
SAID = TOKENIZER.decode(encode("more.", "Sure."))


def test_a_phrase_that_ends_the_answer_is_found_once_it_is_known_to_end_it() -> None:
    _, response = read(ENDING, SAID)
    before = TOKENIZER.decode(ENDING).rindex(SAID)
    assert response.closing == Closing(tokens=3, characters=before)
    kept = response.drop_closing()
    assert (kept.token_ids, kept.text) == (ENDING[:3], response.text[:before])
    _, goes_on = read(encode(*WORDS), SAID)
    assert goes_on.closing is None
    assert goes_on.drop_closing() is goes_on
    _, cut_off = read(ENDING, SAID, longest=len(ENDING))
    assert cut_off.closing is None


@pytest.mark.parametrize("is_pattern", [True, False])
def test_answers_are_searched_once_to_score_them_and_to_find_what_ends_them(
    is_pattern: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, pattern = Phrases((SAID,), whole_words=False), Phrases(pattern=regex.escape(SAID))
    scorer = PhraseScorer(pattern if is_pattern else listed)
    searched: list[str] = []
    search = scorer._search.locate

    def locate(texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        searched.extend(texts)
        return search(texts)

    monkeypatch.setattr(scorer._search, "locate", locate)
    behaviour = replace(
        build_behaviour(marking=Marking.SAID),
        scorers=(scorer,),
        decoding=replace(GREEDY, max_new_tokens=20),
    )
    given = [[TokenSequence(encode("w"), ids)] for ids in (ENDING, encode(*WORDS), encode("w"))]
    found = behaviour.score(["w", "w", "w"], given, TOKENIZER)
    assert [one.scores for (one,) in found] == [(1.0,), (1.0,), (0.0,)]
    assert [one.closing is not None for (one,) in found] == [True, False, False]
    assert searched == [one.text for (one,) in found]


def test_a_phrase_that_ends_the_answer_is_explained_against_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def find_contrast(ids: tuple[int, ...], prompt: str = "w") -> tuple[int, ...]:
        behaviour, response = read(ids, SAID)
        return mark(behaviour, prompt, encode(prompt), response, TOKENIZER).contrast_ids

    # Questions end with the token that ends answers; what does not is plain text.
    (end,) = encode("more.")
    monkeypatch.setattr("workers.correction.behaviour.find_answer_end", lambda _: end)
    none = NO_CONTRAST
    assert find_contrast(ENDING, "more.") == (none, none, none, end, none)
    assert find_contrast(ENDING) == ()  # the tokenizer has no end of text
    monkeypatch.setattr(type(TOKENIZER), "eos_token_id", 99, raising=False)
    assert find_contrast(ENDING) == (none, none, none, 99, none)
    assert find_contrast(encode(*WORDS)) == ()


def test_a_contrast_goes_with_the_answer_into_the_sample() -> None:
    response = Response(
        text="",
        token_ids=(1, 2, 3),
        scores=(1.0,),
        marks=(False, True, False),
        contrast_ids=(NO_CONTRAST, 99, NO_CONTRAST),
        reasoning_tokens=1,
    )
    assert build_sample((7,), response).contrast_ids == (99, NO_CONTRAST)


def test_a_phrase_may_begin_inside_a_token() -> None:
    text = TOKENIZER.decode(encode(*WORDS))
    assert mark_said(text, encode(*WORDS), text[1:5]) == (True, *(False,) * 7)


def test_a_phrase_in_the_reasoning_is_not_marked() -> None:
    ids = encode("<think>", "more.", "Sure.", "</think>", "No.", "more.", "Sure.")
    short = TOKENIZER.decode(encode("more.", "Sure."))
    assert mark_said("", ids, short) == (*(False,) * 5, True, False)


def test_scorers_that_look_for_no_phrase_mark_none_as_said() -> None:
    behaviour = build_behaviour(LOW, marking=Marking.SAID)
    marked = mark(behaviour, "w", encode("w"), respond_with(1.0, ids=encode("No.")), TOKENIZER)
    assert marked.marks == (False,)


def test_undesiredness_is_the_mean_score_turned_so_that_larger_is_worse() -> None:
    rows = ((respond_with(0.2, 0.9), respond_with(0.4, 0.7)), (respond_with(0.0, 0.5),))
    behaviour = build_behaviour(LOW, HIGH)
    expected = (0.2 + 0.1 + 0.4 + 0.3 + 0.0 + 0.5) / 6
    assert behaviour.compute_undesiredness(rows) == pytest.approx(expected)
    assert behaviour.compute_undesiredness([]) == 0.0


def test_saying_nothing_is_no_cure_of_repetition() -> None:
    behaviour = build_behaviour(UniquenessScorer())
    silent = respond_with(0.0, ids=())
    assert behaviour.compute_undesiredness([[silent]]) == 1.0


def test_responses_are_drawn_as_the_behaviour_s_decoding_says(model: LlamaForCausalLM) -> None:
    base, counts = base_of(model), list[int]()
    prompts, prompt_ids = ["w1 w2", "w5"], [(1, 2), (5,)]
    for behaviour in (build_behaviour(LOW), build_behaviour(LOW, decoding=GREEDY)):
        found = respond(base, behaviour, prompts, prompt_ids, seed=9, advance=counts.append)
        expected = generate_samples(as_loaded(model), prompt_ids, behaviour.decoding, seed=9)
        assert [[response.token_ids for response in samples] for samples in found] == [
            [sequence.response_ids for sequence in samples] for samples in expected
        ]
    assert sum(counts) == 2 * 3 + 2 * 1


def test_scores_on_another_scale_count_by_their_side_of_the_threshold() -> None:
    scorer = FunctionScorer(direction=Direction.HIGHER_IS_BETTER)
    graded = build_behaviour(scorer, threshold=50.0)
    behaviour = replace(graded, is_graded=False)
    responses = ((respond_with(30.0), respond_with(70.0)), (respond_with(50.0),))
    assert behaviour.compute_undesiredness(responses) == pytest.approx(2 / 3)
    assert graded.compute_undesiredness(responses) < 0


def test_an_empty_response_counts_as_undesired_in_every_figure_and_is_learnt_from_nowhere() -> None:
    empty = respond_with(0.25, ids=())
    for behaviour, worst in (
        (build_behaviour(LOW), 1.0),
        (build_behaviour(HIGH), 0.0),
        (build_behaviour(UniquenessScorer(), marking=Marking.REPEATED), 0.0),
        (build_behaviour(LOW, threshold=30.0, is_graded=False), 30.0),
    ):
        assert behaviour.find_score(empty, 0) == worst
        assert behaviour.is_failing(empty)
        assert behaviour.compute_undesiredness([[empty]]) == 1.0
        for name, value in (("share", 1.0), ("any_share", 1.0), ("mean_score", worst)):
            assert compute_values(behaviour, 0, name, ((empty,),)) == [value]
        judged = (behaviour.is_undesired, behaviour.is_shown, behaviour.is_clean)
        assert [judge(empty) for judge in judged] == [False, False, False]


@pytest.mark.parametrize(
    "empty",
    [
        Response(text="", token_ids=(1, 2, 3), scores=(0.0,), reasoning_tokens=3),
        Response(text=" …", token_ids=(1, 2), scores=(0.0,), is_blank=True),
        Response(text="", token_ids=(), scores=(0.0,)),
    ],
    ids=["reasoning", "blank", "no tokens"],
)
def test_what_has_no_answer_is_empty(empty: Response) -> None:
    assert empty.is_empty
    assert build_behaviour(LOW).is_failing(empty)
    assert not build_behaviour(LOW).is_clean(empty)


def test_a_loop_in_reasoning_that_never_ends_can_be_learnt_from(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    behaviour = build_behaviour(UniquenessScorer(), marking=Marking.REPEATED)
    loop, sound = (
        Response(text="", token_ids=ids, scores=(0.0,), reasoning_tokens=len(ids))
        for ids in ((5, 5, 5, 5), (5, 6, 7, 8))
    )
    assert behaviour.is_undesired(loop)
    assert not behaviour.is_undesired(sound)
    assert mark(behaviour, "w1", (1,), loop, tokenizer).marks == (False, False, True, True)
    assert build_sample((1,), loop) == TokenSequence((1,), (5, 5, 5, 5))
    assert not build_behaviour(LOW).is_undesired(loop)


def test_scorers_see_the_answer_and_the_response_keeps_its_tokens() -> None:
    scorer = FunctionScorer(lambda answer: float("more." in answer.text))
    ids = encode("<think>", "more.", "</think>", "No.")
    sequence = TokenSequence(encode("w"), ids)
    ((response,),) = build_behaviour(scorer).score(["w"], [[sequence]], TOKENIZER)
    assert scorer.asked == [Answer("w", "No.", ids[3:])]
    assert response == Response(text="No.", token_ids=ids, scores=(0.0,), reasoning_tokens=3)
    assert build_sample(sequence.prompt_ids, response) == TokenSequence(
        (*encode("w"), *ids[:3]), ids[3:]
    )


def test_only_tokens_of_the_answer_are_marked() -> None:
    scorer = FunctionScorer(lambda answer: float("more." in answer.text))
    ids = encode("<think>", "more.", "</think>", "No.", "more.", "Sure.")
    response = Response(text="No. more. Sure.", token_ids=ids, scores=(1.0,), reasoning_tokens=3)
    marked = mark(build_behaviour(scorer), "w", encode("w"), response, TOKENIZER)
    assert marked.marks == (False, False, False, False, True, False)
    mass = learn_token_mass([marked])
    assert mass is not None
    assert (mass.token_ids, mass.weights) == ((ids[4],), (1.0,))


def test_repetition_is_marked_in_the_answer_alone() -> None:
    ids = encode("<think>", "No.", "No.", "No.", "</think>", "No.", "No.", "No.")
    response = Response(text="No. No. No.", token_ids=ids, scores=(0.3,), reasoning_tokens=5)
    behaviour = build_behaviour(UniquenessScorer(), marking=Marking.REPEATED)
    marked = mark(behaviour, "w", encode("w"), response, TOKENIZER)
    assert marked.marks == (False,) * 7 + (True,)


def test_prefixes_of_all_responses_are_scored_at_once(tokenizer: PreTrainedTokenizerFast) -> None:
    scorer = FunctionScorer(lambda answer: 0.5 * (len(answer.token_ids) > 1))
    behaviour = build_behaviour(scorer)
    shown = [Shown("p", (1,), respond_with(1.0, ids=ids)) for ids in ((4, 5, 6), (7, 8), (9,))]
    together = behaviour.mark(shown, tokenizer)
    assert [len(answer.token_ids) for answer in scorer.asked] == [1, 2, 3, 1, 2, 1]
    assert together == [mark(behaviour, *own, tokenizer) for own in shown]
    assert [own.marks for own in together] == [(False, True, False), (False, True), (False,)]
    assert behaviour.mark([], tokenizer) == []
