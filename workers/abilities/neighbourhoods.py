"""Slices near a behaviour, which must not be lost together with it.

Detoxified models are known to fail on harmless text about minorities and in their dialects
(Xu et al. 2021, arXiv 2104.06390; Welbl et al. 2021, arXiv 2109.07445), and words used in toxic
text have harmless uses as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from excise.names import BehaviourKind
from workers.abilities import words
from workers.abilities.around_phrases import build_phrase_slices
from workers.abilities.probe import Area, Probe, Right, SliceKind
from workers.abilities.sentences import split_sentence
from workers.abilities.source import Source
from workers.abilities.texts import counter_speech, dialect, groups, health_and_law, profanity

_ALL_GROUPS = tuple(group for family in groups.GROUPS.values() for group in family)
_FAMILIES = tuple(groups.GROUPS)


def draw_group(source: Source) -> Probe:
    """Draw a plain sentence that names a group of any family."""
    return _tell_of_group(source, source.deal(_FAMILIES))


def draw_dialect(source: Source) -> Probe:
    """Draw an everyday sentence in African-American English."""
    return split_sentence(_fill(source, dialect.SENTENCES))


def draw_counter_speech(source: Source) -> Probe:
    """Draw a sentence that reports hate against a group and rejects it."""
    template = source.choose(counter_speech.SENTENCES)
    many, _ = source.deal(_ALL_GROUPS)
    return split_sentence(template.format(many=many))


def draw_health_and_law(source: Source) -> Probe:
    """Draw a medical, legal or sexual-health sentence."""
    return split_sentence(_fill(source, health_and_law.SENTENCES))


def draw_profanity(source: Source) -> Probe:
    """Draw a friendly sentence with a mild swear word."""
    return split_sentence(_fill(source, profanity.SENTENCES))


def kinds_for(
    behaviour_kinds: Collection[str], phrases: Sequence[str] = (), patterns: Sequence[str] = ()
) -> tuple[SliceKind, ...]:
    """Return the additional slices for a job's behaviours, each once.

    `behaviour_kinds` are the kinds in the job's spec; `phrases` and `patterns` are what its phrase
    behaviours forbid. Repetition adds none, because its neighbours (copying and learning from
    context) are among the slices that every model is asked.
    """
    found: tuple[SliceKind, ...] = ()
    if BehaviourKind.TOXICITY in behaviour_kinds:
        found += TOXICITY_SLICES
    if BehaviourKind.PHRASE in behaviour_kinds:
        found += build_phrase_slices(phrases, patterns)
    return found


def _tell_of_group(source: Source, family: str) -> Probe:
    many, one = source.deal(groups.GROUPS[family])
    template = source.choose(groups.SENTENCES)
    capital = {"Many": many[0].upper() + many[1:], "One": one[0].upper() + one[1:]}
    return split_sentence(template.format(many=many, one=one, **capital))


def _fill(source: Source, templates: Sequence[str]) -> str:
    """Return one of this purpose's templates with its fields filled in."""
    return source.choose(templates).format(
        name=source.names(1)[0], woman=source.choose(words.WOMEN), man=source.choose(words.MEN),
        place=source.choose(words.PLACES), noun=source.nouns(1)[0],
        thing=source.choose(profanity.THINGS),
    )  # fmt: skip


def _draw_family(family: str) -> Callable[[Source], Probe]:
    """Return a function that draws sentences naming groups of one family."""
    return lambda source: _tell_of_group(source, family)


def _slice(name: str, sentence: str, draw: Callable[[Source], Probe]) -> SliceKind:
    return SliceKind(name, Area.NEIGHBOURHOOD, sentence, draw, 2, Right.TOKENS)


TOXICITY_SLICES: tuple[SliceKind, ...] = (
    _slice("groups", "write about groups of people", draw_group),
    *(
        _slice(f"groups.{family}", f"write about groups ({family})", _draw_family(family))
        for family in _FAMILIES
    ),
    _slice("dialect", "write African-American English", draw_dialect),
    _slice("counter_speech", "speak up against hate", draw_counter_speech),
    _slice("health_and_law", "write about health and the law", draw_health_and_law),
    _slice("honest_profanity", "swear in a friendly way", draw_profanity),
)
"""Each family of groups has its own slice beside that of all groups, so that differences between
families can be seen."""
