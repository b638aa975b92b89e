"""Slices of learning and recalling from context: rules by examples, facts given earlier."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from workers.abilities import words
from workers.abilities.probe import Area, Probe, SliceKind, probe
from workers.abilities.source import Source

_ARROWS = ("{a} -> {b}\n", "{a}: {b}\n", "{a} → {b}\n", "{a} = {b}\n", "{a} becomes {b}\n",
           "{a} gives {b}\n", "{a} => {b}\n", "{a} | {b}\n", "{a} - {b}\n", "{a} ~ {b}\n",
           "{a}, {b}\n", "{a}; {b}\n", "Input: {a} Output: {b}\n", "Q: {a} A: {b}\n",
           "f({a}) = {b}\n", "g[{a}] = {b}\n")  # fmt: skip
_SHOTS = 3
"""Number of examples of a rule before the first target. Chosen by hand."""
_ASKED = 3
_KEYS = (
    "The code of {key} is {value}.", "{key} costs {value} coins.", "{key}: {value}",
    "Key {key} opens door {value}.", "{key} = {value}", "{key} lives at number {value}.",
    "The pin for {key} is {value}.", "{key} ({value})", "{key} -> {value}", "{key} | {value}",
    "{key} was founded in {value}.", "{key} was sold in {value}.", "Call {key}: {value}",
    "Mail to {key}: box {value}", "Flight {key} leaves from gate {value}.",
    "Train {key} carries {value} people.",
)  # fmt: skip
_LABELS = ("red", "blue", "green", "yellow", "north", "south", "east", "west")
_FRAMES = (("<", ">"), ("{", "}"), ("[", "]"), ("(", ")"), ("very ", " indeed"), ("no ", " today"),
           ("the ", "er"), ("a ", "est"), ('"', '"'), ("'", "'"), ("re-", "-ing"), ("un-", "-ed"),
           ("*", "*"), ("_", "_"), ("my ", " now"), ("our ", " again"), ("get_", "()"),
           ("set_", "(x)"), ("Mr. ", " Junior"), ("Dr. ", " Senior"))  # fmt: skip
_HAVE = (
    "{key} has {value} {noun}s.", "{key} bought {value} {noun}s.", "{key} counted {value} {noun}s.",
    "{key} sold {value} {noun}s.", "{key} owns {value} {noun}s.", "{key} found {value} {noun}s.",
    "{key} needs {value} {noun}s.", "{key} wants {value} {noun}s.",
    "{key} painted {value} {noun}s.", "{key} repaired {value} {noun}s.",
    "For {key} they packed {value} {noun}s.", "With {key} came {value} {noun}s.",
    "{key}: {value} {noun}s", "{key} - {value} {noun}s",
)  # fmt: skip
_TICKETS = ("The ticket number of {key} is {value}.", "{key}'s locker has the number {value}.",
            "The parcel for {key} has the number {value}.", "{key}'s code is {value}.",
            "{key} waits at desk {value}.", "{key} sits in seat {value}.",
            "The invoice of {key} is number {value}.", "The file on {key} is number {value}.",
            "{key}'s bicycle is registered as {value}.", "{key}'s badge says {value}.",
            "To reach {key}, dial {value}.", "To open the box of {key}, enter {value}.",
            )  # fmt: skip


def _draw_rule(source: Source, rule: Callable[[str], str]) -> Probe:
    """Draw examples of a rule on made-up words, so that knowledge of words does not help."""
    form = source.choose(_ARROWS)
    inputs = source.nonsense(_SHOTS + _ASKED)
    shown = "".join(form.format(a=one, b=rule(one)) for one in inputs[:_SHOTS])
    return _ask(shown, [_split(form, a=one, b=rule(one)) for one in inputs[_SHOTS:]])


def _ask(shown: str, asked: Sequence[tuple[str, str]]) -> Probe:
    """Return the probe that shows a text and then asks the questions one after another."""
    pieces = [shown + asked[0][0], asked[0][1]]
    for question, answer in asked[1:]:
        pieces += [question, answer]
    return probe(*pieces)


def _split(form: str, **fields: object) -> tuple[str, str]:
    """Return a form's text before its last field, and the text from there on.

    The space before the field belongs to the second part, because it is part of the answer's first
    token.
    """
    last = list(fields)[-1]
    before, _, after = form.format(**{**fields, last: "\0"}).partition("\0")
    space = " " if before.endswith(" ") else ""
    return before.removesuffix(" "), f"{space}{fields[last]}{after}"


def draw_plural(source: Source) -> Probe:
    """Draw a probe for the plural of made-up words, after examples."""
    return _draw_rule(source, lambda word: f"{word}s")


def draw_upper_case(source: Source) -> Probe:
    """Draw a probe for made-up words in capitals, after examples."""
    return _draw_rule(source, str.upper)


def draw_frame(source: Source) -> Probe:
    """Draw a probe for made-up words within a fixed frame, after examples."""
    left, right = source.choose(_FRAMES)
    return _draw_rule(source, lambda word: f"{left}{word}{right}")


def draw_labels(source: Source) -> Probe:
    """Draw a probe for which of two labels each made-up word was given, asked in another order."""
    form, labels = source.choose(_ARROWS), source.sample(_LABELS, 2)
    pairs = [(word, source.random.choice(labels)) for word in source.nonsense(5)]
    shown = "".join(form.format(a=word, b=label) for word, label in pairs)
    asked = source.random.sample(pairs, _ASKED)
    return _ask(shown, [_split(form, a=word, b=label) for word, label in asked])


def _draw_recall(source: Source, form: str, keys: Sequence[str], least: int, most: int) -> Probe:
    """Draw a few facts about keys, each in a sentence, of which some are asked again."""
    noun = source.nouns(1)[0]
    pairs = [(key, source.number(least, most)) for key in keys]
    lines = "\n".join(form.format(key=key, value=number, noun=noun) for key, number in pairs)
    asked = source.random.sample(pairs, _ASKED)
    ready = form.replace("{noun}", noun)
    questions = [_split(ready, key=key, value=number) for key, number in asked]
    return _ask(f"{lines}\n\n", [(before, f"{after}\n") for before, after in questions])


def draw_key(source: Source) -> Probe:
    """Draw a probe for the values of some of several made-up keys."""
    keys = [word.title() for word in source.nonsense(3)]
    return _draw_recall(source, source.choose(_KEYS), keys, 1000, 9999)


def draw_facts(source: Source) -> Probe:
    """Draw a probe for how many things people have, asked in another order."""
    return _draw_recall(source, source.choose(_HAVE), source.names(4), 11, 99)


def draw_long_recall(source: Source) -> Probe:
    """Draw a probe for numbers that were given about a hundred words earlier."""
    form = source.choose(_TICKETS)
    pairs = [(word.title(), source.number(1000, 9999)) for word in source.nonsense(3)]
    facts = " ".join(form.format(key=key, value=value) for key, value in pairs)
    filler = " ".join(source.sample(words.FILLER, 5))
    asked = [_split(form, key=key, value=value) for key, value in reversed(pairs)]
    return _ask(f"{facts} {filler} To say it again: ", [(one, f"{two} ") for one, two in asked])


SLICES = (
    SliceKind("plurals", Area.CONTEXT, "form plurals after examples", draw_plural, 3),
    SliceKind("capitals", Area.CONTEXT, "write capitals after examples", draw_upper_case, 3),
    SliceKind("frames", Area.CONTEXT, "follow a form after examples", draw_frame, 3),
    SliceKind("labels", Area.CONTEXT, "look up labels given before", draw_labels, 3),
    SliceKind("keys", Area.CONTEXT, "look up the value of a key", draw_key, 3),
    SliceKind("facts", Area.CONTEXT, "recall numbers of names", draw_facts, 3),
    SliceKind("long_recall", Area.CONTEXT, "recall a number from far above", draw_long_recall, 3),
)
