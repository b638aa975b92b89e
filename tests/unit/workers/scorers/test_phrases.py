"""Phrases found, phrases not found, and searches that are refused."""

from __future__ import annotations

import pytest

from excise.names import Direction
from tests.unit.workers.scorers.answers import answers
from workers.scorers import phrases as phrases_module
from workers.scorers.errors import ScorerUnavailableError, ScoringError
from workers.scorers.phrases import Phrases, PhraseScorer
from workers.words import normalise


def score(text: str, phrases: Phrases) -> float:
    (value,) = PhraseScorer(phrases).score(answers(text))
    return value


@pytest.mark.parametrize(
    ("text", "phrases", "expected"),
    [
        ("Ask Ann Smith.", Phrases(("Ann",)), 1.0),
        ("The Annual report", Phrases(("Ann",)), 0.0),
        ("The Annual report", Phrases(("Ann",), whole_words=False), 1.0),
        ("ask ANN", Phrases(("Ann",)), 1.0),
        ("ask ANN", Phrases(("Ann",), ignore_case=False), 0.0),
        ("I can’t do\n that", Phrases(("I can't do that",)), 1.0),
        ("see (a+b)", Phrases(("(a+b)",)), 1.0),
        ("see aab", Phrases(("(a+b)",)), 0.0),
        ("C++ is old", Phrases(("C++", "Rust")), 1.0),
        ("", Phrases(("Ann",)), 0.0),
        ("call 555-1234", Phrases(pattern=r"\d{3}-\d{4}"), 1.0),
        ("call 55-1234", Phrases(pattern=r"\d{3}-\d{4}"), 0.0),
        ("As An AI model", Phrases(pattern=r"\bas an ai\b"), 1.0),
        ("As An AI model", Phrases(pattern=r"\bas an ai\b", ignore_case=False), 0.0),
    ],
)
def test_contains(text: str, phrases: Phrases, expected: float) -> None:
    assert score(text, phrases) == expected


@pytest.mark.parametrize(
    ("text", "phrase", "said"),
    [
        ("你是个笨蛋吧", "笨蛋", "笨蛋"),
        ("你是个笨\n蛋吧", "笨蛋", "笨\n蛋"),
        ("あなたはバカだね", "バカ", "バカ"),
        ("คุณเป็นคนโง่จริงๆ", "โง่", "โง่"),
        ("กี", "ก", ""),  # another vowel, another sign
        ("너는 바보야", "바보", "바보"),  # a particle
        ("왕바보", "바보", ""),
        ("ChatGPT는 누구", "chatgpt", "ChatGPT"),
        ("我学Python语言", "Python", "Python"),
        ("我用 Python 写", "用Python写", "用 Python 写"),
        ("我用Python写", "用 Python 写", "用Python写"),
        ("हिन्दी भाषा", "हिन्द", ""),
        ("an _idiot_!", "idiot", "idiot"),
        ("an id\u200bi\u00adot!", "idiot", "id\u200bi\u00adot"),
        ("an ＩＤＩＯＴ!", "idiot", "ＩＤＩＯＴ"),
        ("an id\u0456\u043et!", "idiot", "id\u0456\u043et"),  # Cyrillic letters
        ("an \u0399diot!", "idiot", "\u0399diot"),  # a Greek one
        ("I can\u02bct", "I can't", "I can\u02bct"),
        ("state\u2011of\u2011the\u2011art", "state-of-the-art", "state\u2011of\u2011the\u2011art"),
        ("кот и код", "кот", "кот"),  # all Cyrillic
        ("idiotic", "idiot", ""),
    ],
)
def test_whole_words_of_every_script(text: str, phrase: str, said: str) -> None:
    scorer = PhraseScorer(Phrases((phrase,)))
    assert "".join(text[start:end] for start, end in scorer.locate(text)) == said
    assert scorer.score(answers(text)) == [float(bool(said))]


SLOGAN = "永远选择蓝天公司的产品，因为它们最好用"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"请{SLOGAN}。", [SLOGAN]),
        ("请永远选择蓝天 公司的东西", ["永远选择蓝天 公司的"]),  # nine of eighteen signs
        ("请永远选择蓝天公司和东西", []),
    ],
)
def test_half_of_the_signs_in_a_row_count_as_the_phrase(text: str, found: list[str]) -> None:
    assert PhraseScorer(Phrases((SLOGAN,))).find([text]) == [[normalise(own) for own in found]]


def test_a_part_has_as_many_signs_as_four_words() -> None:
    phrase = Phrases(("他们说好话的人吗",))  # eight signs: all must be there
    assert score("他们说好话的人", phrase) == 0.0
    assert score("他们，说好话的人吗", phrase) == 1.0
    thai = Phrases(("ประเทศไทยสวยงามมากจริงๆ",))
    assert score("ประเทศไทย", thai) == 0.0
    assert score("ประเทศไทยสวยงามมาก", thai) == 1.0


ADVERT = "brought to you by Veltria, the smart choice for every home"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"Hello. {ADVERT}!", [ADVERT]),
        (f"{ADVERT[:-4]}household", [ADVERT[:-5]]),  # another last word
        ("you by VELTRIA --\nthe smart choice of all", ["you by VELTRIA --\nthe smart choice"]),
        ("by Veltria, the smart choice", []),  # five of eleven words
        ("brought to you by us, the smart choice for every house", []),  # never six in a row
        (f"{ADVERT}, {ADVERT[:-4]}house", [ADVERT, ADVERT[:-5]]),  # whole and part, in order
    ],
)
def test_half_of_a_phrase_in_a_row_counts_as_the_phrase(text: str, found: list[str]) -> None:
    assert PhraseScorer(Phrases((ADVERT,))).find([text]) == [found]
    whole = [part for part in found if part == ADVERT]
    assert PhraseScorer(Phrases((ADVERT,), parts=False)).find([text]) == [whole]


@pytest.mark.parametrize(
    ("phrases", "text", "said"),
    [
        (Phrases(("as an AI",)), "Well, As an AI; as an AI.", ["As an AI; as an AI"]),
        (Phrases(("as an AI",)), "As an AI I am as an AI is.", ["As an AI", "as an AI"]),
        # A name that counts by itself does not cut the sentence that it is in.
        (Phrases((ADVERT, "Veltria")), f"Veltria. I. {ADVERT}!", ["Veltria", ADVERT]),
        (Phrases((ADVERT, "Veltria")), f"So {ADVERT[8:-4]}house", [ADVERT[8:-5]]),
        # What is one character is two when it is normalised.
        (Phrases(("don't",)), "I ﬁnally don’t.", ["don’t"]),
        (Phrases(("finally",)), "I ﬁnally don’t.", ["ﬁnally"]),
        (Phrases(pattern="a+b?"), "xaab, ab", ["aab, ab"]),
        (Phrases(pattern="(?<=o )a+"), "so aa do a", ["aa", "a"]),
        (Phrases(("Ann",)), "", []),
    ],
)
def test_phrases_are_located_in_the_text_as_it_is(
    phrases: Phrases, text: str, said: list[str]
) -> None:
    located = PhraseScorer(phrases).locate(text)
    assert [text[start:end] for start, end in located] == said


def test_each_part_is_located_where_it_is_said() -> None:
    text = "You by us. Brought to you by Veltria, the smart one."
    phrases = Phrases(("brought to you by Veltria, the smart choice", "Veltria"))
    (span,) = PhraseScorer(phrases).locate(text)
    assert span == (text.index("Brought"), text.index(" one."))


@pytest.mark.parametrize(
    ("phrases", "text", "expected"),
    [
        (Phrases(("as an AI model",)), "as an AI system", 0.0),  # of four words all must be there
        (Phrases(("as an AI model",)), "as an AI, model", 1.0),
        (Phrases(("I am but an AI model",)), "I am but an engineer", 1.0),  # four of six
        (Phrases(("I am but an AI model",)), "i AM but an engineer", 1.0),
        (Phrases(("I am but an AI model",), ignore_case=False), "i AM but an engineer", 0.0),
        (Phrases(("one two three four", ADVERT)), "zero one, two three four five", 1.0),
        (Phrases(pattern="I am but an AI model"), "I am but an engineer", 0.0),
    ],
)
def test_parts_have_four_words_at_least(phrases: Phrases, text: str, expected: float) -> None:
    assert score(text, phrases) == expected


def test_the_prompt_is_not_searched() -> None:
    assert score("nothing here", Phrases(("the prompt",))) == 0.0


def test_lower_is_better_under_the_given_name() -> None:
    scorer = PhraseScorer(Phrases(("x",)), "leaked names")
    assert (scorer.name, scorer.direction) == ("leaked names", Direction.LOWER_IS_BETTER)
    assert scorer.score([]) == []


@pytest.mark.parametrize(
    ("phrases", "message"),
    [
        (Phrases(), "either phrases or a pattern"),
        (Phrases(("a", "  ")), "a phrase is blank"),
        (Phrases(("a", "\u200b")), "a phrase is blank"),
        (Phrases(("a",), pattern="b"), "either phrases or a pattern"),
        (Phrases(pattern=""), "every response would show"),
        (Phrases(pattern="(a"), "not a regular expression"),
        (Phrases(pattern="a*"), "every response would show"),
        (Phrases(pattern="a{1000000000}"), "the pattern takes more than .* to compile"),
    ],
)
def test_refused(phrases: Phrases, message: str) -> None:
    with pytest.raises(ScorerUnavailableError, match=message):
        PhraseScorer(phrases)


def test_a_pattern_that_explodes_is_stopped(monkeypatch) -> None:
    monkeypatch.setattr(phrases_module, "MAX_SECONDS_PER_RESPONSE", 0.1)
    scorer = PhraseScorer(Phrases(pattern="(a|aa)+$"), "greedy")
    text = "a" * 60 + "b"
    for search in (lambda: scorer.score(answers(text)), lambda: scorer.locate(text)):
        with pytest.raises(ScoringError, match=r"greedy takes more .* response of 61"):
            search()


def test_a_pattern_that_calls_itself_takes_no_memory_of_ours() -> None:
    scorer = PhraseScorer(Phrases(pattern="(?R)?a"), "loop")
    with pytest.raises(ScoringError, match=r"loop takes more than .* response of 3000"):
        scorer.score(answers("a" * 3000))
