"""Leftovers: what remains of a behaviour and what replaced it, as word n-grams of responses.

A scorer counts only what it searches for. A corrected model may say something close to it: the
first half of a phrase, or another phrase in its place. Therefore the words of held-out responses
are compared between base and corrected model, and words that are as common in ordinary text are
ignored. The unit is the prompt, because samples of one prompt are not independent; words that the
prompt itself contains do not count.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from statistics import fmean

import regex
from scipy.stats import binom

from excise.reports.correction import BehaviourLeftovers, Leftover
from workers.correction.background import MIN_SHARE, Background, Gram
from workers.correction.behaviour import Behaviour
from workers.correction.common_words import find_common_words
from workers.correction.results import PromptOutcome, Response, Responses
from workers.correction.samples import build_held_out_sample
from workers.scorers.phrases import PhraseScorer
from workers.words import AFTER_SIGN, LETTER, SIGN, is_sign, join_words, normalise

SIGNIFICANCE = 0.05
"""Family-wise significance level: largest probability that chance alone puts anything in a list.
The usual level."""

MAX_WORDS = 8
"""Longest n-gram compared; longer runs are found by their parts. Chosen by hand."""

MIN_LEFT = 0.5
"""An n-gram counts as left if at least this share of the prompts that had it still have it. Chosen
by hand."""

COVERED = 0.8
"""An n-gram is not listed next to one with at least half of its words and at least this share of
its responses. Chosen by hand."""

MAX_LISTED, MAX_SAMPLES = 6, 3
MAX_ORDINARY_PIECES = 400
MAX_PROMPTS, MAX_RESPONSES, MAX_RESPONSE_WORDS = 500, 1000, 200
"""Limits on what is compared, taking the first of each; they bound memory to a few hundred MB."""

MAX_PATTERN_CHARACTERS = 1000
"""Longest pattern that the spec's `pattern` accepts."""

_WORD = regex.compile(rf"{SIGN}|{LETTER}+(?:['\-]{LETTER}+)*")


@dataclass(frozen=True)
class _Pair:
    """One response each of the base and of the corrected model."""

    before: frozenset[Gram]
    after: frozenset[Gram]
    said: frozenset[Gram]
    """The part of `before` that made it undesired, if the scorer can tell; else all of it."""
    is_cured: bool


@dataclass(frozen=True)
class _Found:
    gram: Gram
    p_value: float
    """Corrected for the number of n-grams compared."""


def find_leftovers(
    behaviour: Behaviour,
    prompts: Sequence[PromptOutcome],
    held_out: Sequence[PromptOutcome],
    before: Responses,
    after: Responses,
    ordinary: Sequence[str],
) -> BehaviourLeftovers | None:
    """Return what is left of a behaviour in corrected responses, and what replaced it.

    `before` and `after` are `(prompt, sample)` responses to `held_out`. The clean responses among
    all `prompts` of the behaviour, and the texts `ordinary`, show which words are common anyway.
    Runs such as "of the", of which every word is common in `ordinary`, never count as what
    replaced it. They may be what is left, because then they are parts of what was undesired. A
    single word that those texts use, or the base beside a phrase, must have come in more responses
    than a run, and is never left of a phrase: "to" stays in most answers from which "brought to
    you by" is gone.
    Returns None if nothing is left and nothing came instead.
    """
    samples = max(map(len, before), default=1)
    most = max(1, min(MAX_PROMPTS, MAX_RESPONSES // samples))
    compared = list(islice(zip(held_out, before, after, strict=True), most))
    shown = [old for _, olds, _ in compared for old in olds if behaviour.is_undesired(old)]
    said = iter(_find_said(behaviour, shown))
    units = [
        [
            _build_pair(behaviour, outcome, old, new, said)
            for old, new in zip(olds, news, strict=True)
        ]
        for outcome, olds, news in compared
    ]
    clean = _collect_clean(behaviour, prompts)
    words = find_common_words(map(list_words, ordinary))
    beside = _unite(_list_parts(text) for text in _cut_phrases(behaviour, shown))
    common = Background((clean, _cut_pieces(ordinary, after)), words, beside)
    is_phrase = any(isinstance(scorer, PhraseScorer) for scorer in behaviour.scorers)
    remaining = _find_left(units, common if is_phrase else Background((clean,)))
    if is_phrase:
        remaining = [found for found in remaining if not common.is_plain_word(found.gram)]
    left = _choose(remaining, units, words)
    known = {found.gram for found in left}
    risen = _find_risen(units, common)
    rose = _choose([found for found in risen if found.gram not in known], units, words)
    if not left and not rose:
        return None
    pattern = write_pattern([found.gram for found in left or rose])
    return BehaviourLeftovers(
        behaviour=behaviour.name,
        responses=sum(map(len, units)),
        left=[_describe(found, units) for found in left],
        rose=[_describe(found, units) for found in rose],
        pattern=pattern,
        advice=_advise(is_phrase=is_phrase, has_left=bool(left)),
        samples=[
            build_held_out_sample(
                behaviour, held_out[unit], before[unit][sample], after[unit][sample]
            )
            for unit, sample in _choose_pairs([found.gram for found in left + rose], units)
        ],
    )


def list_words(text: str) -> Gram:
    """Return the words of a text in lower case; in scripts without spaces, each sign is a word.

    Unlike in `workers.words.list_words`, an apostrophe or hyphen within a word does not end it.
    """
    return tuple(_WORD.findall(normalise(text).casefold()))


def _list_parts(text: str) -> frozenset[Gram]:
    """Return the n-grams of the first `MAX_RESPONSE_WORDS` words of a text."""
    return list_grams(list_words(text)[:MAX_RESPONSE_WORDS], MAX_WORDS)


def list_grams(words: Sequence[str], longest: int) -> frozenset[Gram]:
    """Return all runs of one to `longest` consecutive words."""
    return frozenset(
        tuple(words[start : start + length])
        for length in range(1, longest + 1)
        for start in range(len(words) - length + 1)
    )


def write_pattern(grams: Iterable[Gram]) -> str:
    """Return a regular expression that finds any of the n-grams, with any punctuation.

    It is limited to `MAX_PATTERN_CHARACTERS`; n-grams that do not fit are left out.
    """
    pattern = ""
    for gram in grams:
        longer = f"{pattern}|{_write_gram(gram)}" if pattern else _write_gram(gram)
        if len(longer) <= MAX_PATTERN_CHARACTERS:
            pattern = longer
    return pattern


def _write_gram(gram: Gram) -> str:
    written = [regex.escape(word).replace("'", "['’]") for word in gram]
    text = written[0]
    for (one, other), word in zip(pairwise(gram), written[1:], strict=True):
        text += (r"\W*" if is_sign(one) or is_sign(other) else r"\W+") + word
    before = "" if is_sign(gram[0]) else r"(?<!\w)"
    after = AFTER_SIGN if is_sign(gram[-1]) else r"(?!\w)"
    return f"{before}{text}{after}"


def _build_pair(
    behaviour: Behaviour,
    outcome: PromptOutcome,
    before: Response,
    after: Response,
    said: Iterator[frozenset[Gram]],
) -> _Pair:
    """Return a pair; `said` yields the n-grams that make each undesired response undesired."""
    given = _list_parts(outcome.prompt)
    was_shown = behaviour.is_undesired(before)
    old = _list_parts(before.text) - given
    return _Pair(
        before=old,
        after=_list_parts(after.text) - given,
        said=next(said) & old if was_shown else frozenset(),
        is_cured=was_shown and not behaviour.is_failing(after),
    )


def _find_said(behaviour: Behaviour, responses: Sequence[Response]) -> list[frozenset[Gram]]:
    """Return the n-grams of the phrases found in each response; for other scorers, all n-grams."""
    texts = [response.text for response in responses]
    searches = [scorer for scorer in behaviour.scorers if isinstance(scorer, PhraseScorer)]
    if not searches:
        return [_list_parts(text) for text in texts]
    found = zip(*(scorer.find(texts) for scorer in searches), strict=True)
    return [_unite(_list_parts(part) for own in parts for part in own) for parts in found]


def _cut_phrases(behaviour: Behaviour, responses: Sequence[Response]) -> Iterator[str]:
    """Yield each response without the phrases in it; nothing for other scorers."""
    for scorer in behaviour.scorers:
        if isinstance(scorer, PhraseScorer):
            for response in responses:
                text = response.text
                for start, end in reversed(scorer.locate(text)):
                    text = f"{text[:start]} {text[end:]}"
                yield text


def _collect_clean(
    behaviour: Behaviour, prompts: Sequence[PromptOutcome]
) -> tuple[frozenset[Gram], ...]:
    """Return, for each prompt, the n-grams of the base model's clean responses."""
    clean = (
        [response.text for response in outcome.drawn if behaviour.is_clean(response)]
        for outcome in prompts
    )
    compared = islice((texts for texts in clean if texts), MAX_ORDINARY_PIECES)
    return tuple(_unite(map(_list_parts, texts)) for texts in compared)


def _unite(parts: Iterable[frozenset[Gram]]) -> frozenset[Gram]:
    return frozenset[Gram]().union(*parts)


def _cut_pieces(texts: Sequence[str], responses: Responses) -> tuple[frozenset[Gram], ...]:
    """Return the n-grams of the joined `texts`, cut into pieces as long as responses.

    Runs across the end of a text do not really occur, but are too few to matter.
    """
    lengths = [len(list_words(one.text)) for samples in responses for one in samples]
    size = max(1, min(MAX_RESPONSE_WORDS, round(fmean(lengths)))) if lengths else 1
    running = chain.from_iterable(map(list_words, texts))
    words = tuple(islice(running, MAX_ORDINARY_PIECES * size))
    starts = range(0, len(words) - size + 1, size)
    return tuple(list_grams(words[start : start + size], MAX_WORDS) for start in starts)


def _find_left(units: Sequence[Sequence[_Pair]], background: Background) -> list[_Found]:
    """Return n-grams of the undesired text that remain where the behaviour itself is gone.

    P-values have a Bonferroni correction for all n-grams that the base said often enough.
    """
    cured = [pairs for unit in units if (pairs := [pair for pair in unit if pair.is_cured])]
    said = _count_units(_unite(pair.said for pair in one) for one in cured)
    kept = _count_units(_unite(pair.after for pair in one) for one in cured)
    least = max(MIN_SHARE * len(cured), 2)
    candidates = [gram for gram, count in said.items() if count >= least]
    found = (
        _Found(
            gram,
            len(candidates) * background.compute_p_value(gram, kept[gram], len(cured)),
        )
        for gram in candidates
        if kept[gram] >= MIN_LEFT * said[gram]
    )
    return [one for one in found if one.p_value <= SIGNIFICANCE]


def _find_risen(units: Sequence[Sequence[_Pair]], background: Background) -> list[_Found]:
    """Return n-grams that are more common in corrected responses than in the base's and in text.

    A sign test over prompts (McNemar 1947, if each has one sample), with Tarone's correction
    (Biometrics 46:515, 1990), which counts only n-grams that could become significant at all.
    """
    ups, downs = Counter[Gram](), Counter[Gram]()
    for unit in units:
        change = Counter(gram for pair in unit for gram in pair.after)
        change.subtract(gram for pair in unit for gram in pair.before)
        ups.update(gram for gram, more in change.items() if more > 0)
        downs.update(gram for gram, more in change.items() if more < 0)
    factor = find_tarone_factor([ups[gram] + downs[gram] for gram in ups])
    holding = _count_units(_unite(pair.after for pair in one) for one in units)
    risen = []
    for gram in ups:
        up, changed = ups[gram], ups[gram] + downs[gram]
        if up < MIN_SHARE * len(units) or factor * 0.5**changed > SIGNIFICANCE:
            continue
        if up < background.find_least_share(gram) * len(units):
            continue
        p_value = factor * float(binom.sf(up - 1, changed, 0.5))
        if p_value <= SIGNIFICANCE:
            rarity = background.compute_p_value(gram, holding[gram], len(units))
            risen.append(_Found(gram, max(p_value, rarity)))
    return [one for one in risen if one.p_value <= SIGNIFICANCE]


def find_tarone_factor(changed: Sequence[int]) -> int:
    """Return the factor for p-values of sign tests, given the number of changes in each test.

    It is the smallest K for which at most K tests can reach SIGNIFICANCE / K; the smallest
    possible p-value with n changes is 2⁻ⁿ (Tarone 1990).
    """
    best = sorted(0.5**count for count in changed)
    factor = 1
    while bisect_right(best, SIGNIFICANCE / factor) > factor:
        factor += 1
    return factor


def _count_units(units: Iterable[frozenset[Gram]]) -> Mapping[Gram, int]:
    return Counter(gram for unit in units for gram in unit)


def _choose(
    found: Sequence[_Found], units: Sequence[Sequence[_Pair]], common: frozenset[str]
) -> list[_Found]:
    """Return the n-grams to list, the most common first; longer ones replace their parts.

    One that adds nothing but common words to another, which clearly more responses have, does not.
    """
    counts = {one.gram: _count_after(one.gram, units) for one in found}
    kept: list[_Found] = []
    for one in sorted(found, key=lambda one: (-len(one.gram), -counts[one.gram], one.gram)):
        if counts[one.gram] < COVERED * counts.get(_trim(one.gram, common), 0):
            continue
        if not any(
            counts[other.gram] >= COVERED * counts[one.gram]
            and 2 * _find_common_run(one.gram, other.gram) >= len(one.gram)
            for other in kept
        ):
            kept.append(one)
    return sorted(kept, key=lambda one: (-counts[one.gram], one.gram))[:MAX_LISTED]


def _trim(gram: Gram, common: frozenset[str]) -> Gram:
    """Return the n-gram without the common words at its ends."""
    telling = [place for place, word in enumerate(gram) if word not in common]
    return gram[telling[0] : telling[-1] + 1] if telling else ()


def _find_common_run(one: Gram, other: Gram) -> int:
    """Return the length in words of the longest run that occurs in both."""
    runs = list_grams(other, len(other))
    return max((len(run) for run in list_grams(one, len(one)) if run in runs), default=0)


def _count_after(gram: Gram, units: Sequence[Sequence[_Pair]]) -> int:
    return sum(gram in pair.after for unit in units for pair in unit)


def _describe(found: _Found, units: Sequence[Sequence[_Pair]]) -> Leftover:
    return Leftover(
        words=join_words(found.gram),
        before=sum(found.gram in pair.before for unit in units for pair in unit),
        after=_count_after(found.gram, units),
        p_value=found.p_value,
    )


def _choose_pairs(grams: Sequence[Gram], units: Sequence[Sequence[_Pair]]) -> list[tuple[int, int]]:
    """Return (prompt, sample) of the responses with the most of these n-grams, one per prompt."""
    best = []
    for number, unit in enumerate(units):
        counts = [sum(gram in pair.after for gram in grams) for pair in unit]
        most = max(counts, default=0)
        if most:
            best.append((-most, number, counts.index(most)))
    return [(number, sample) for _, number, sample in sorted(best)[:MAX_SAMPLES]]


def _advise(*, is_phrase: bool, has_left: bool) -> str:
    what = "What is left" if has_left else "What came instead"
    if is_phrase:
        return (
            f"{what} is not counted. If it is unwanted as well, widen the behaviour and run the "
            "job again: add the words to phrases, or this to pattern after a |"
        )
    return (
        f"{what} is not counted by the scorers. If it is unwanted as well, add a behaviour of the "
        "kind phrase with this pattern and run the job again"
    )
