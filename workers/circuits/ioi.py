"""The indirect object identification (IOI) task, from templates and words written for Excise."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from excise.names import BuiltInTask, CircuitMetric
from workers.circuits.tasks import Task, TaskError, TaskRow, encode_row
from workers.models.encoding import encode_part
from workers.models.tokenizer import Tokenizer

TEMPLATES = (
    "When {first} and {second} walked into the {place}, {giver} handed a {thing} to",
    "Before {first} and {second} left the {place}, {giver} passed the {thing} to",
    "While {first} and {second} were waiting at the {place}, {giver} offered a {thing} to",
    "Yesterday {first} and {second} met at the {place}. {giver} decided to give the {thing} to",
    "As soon as {first} and {second} got back from the {place}, {giver} showed the {thing} to",
    "Last week {first} and {second} cleaned the {place} together, and {giver} gave a {thing} to",
)
"""Each template is used in both orders: the indirect object named first (ABBA) or second (BABA)."""

NAMES = (
    *("Alice", "Peter", "Laura", "Simon", "Emma", "Oliver", "Julia", "Martin", "Clara", "Henry"),
    *("Maria", "Victor", "Helen", "George", "Grace", "Walter", "Susan", "Philip", "Diana", "Louis"),
    *("Anna", "Frank", "Ruth", "Edward", "Linda", "Roger", "Nancy", "Albert", "Judy", "Oscar"),
)
PLACES = ("library", "garden", "kitchen", "museum", "bakery", "station", "theater", "market")
THINGS = ("book", "letter", "basket", "camera", "ticket", "blanket", "map", "cake")

_FEWEST_NAMES = 3


def generate_ioi(
    tokenizer: Tokenizer, count: int, seed: int, templates: Sequence[str] = TEMPLATES
) -> Task:
    """Return `count` rows that cycle through templates and orders, with words drawn by `seed`.

    In the corrupted prompt a third name stands where the giver is named again, so that neither
    name is repeated. Only names, places and things that are one token after a space are used, so
    all rows of a template have the same length. `group` is the template's number and the order.
    Raises `TaskError` if too few words are one token.
    """
    names = _keep_single(tokenizer, NAMES, _FEWEST_NAMES)
    places = _keep_single(tokenizer, PLACES, 1)
    things = _keep_single(tokenizer, THINGS, 1)
    generator = torch.Generator().manual_seed(seed)

    def draw(words: Sequence[str], number: int) -> list[str]:
        order = torch.randperm(len(words), generator=generator)[:number]
        return [words[index] for index in order.tolist()]

    rows: list[TaskRow] = []
    for index in range(count):
        number, is_baba = (index // 2) % len(templates), index % 2 == 1
        answer, giver, third = draw(names, _FEWEST_NAMES)
        first, second = (giver, answer) if is_baba else (answer, giver)
        words = {"first": first, "second": second}
        words |= {"place": draw(places, 1)[0], "thing": draw(things, 1)[0]}
        clean = templates[number].format(giver=giver, **words)
        corrupted = templates[number].format(giver=third, **words)
        group = f"{number} {'BABA' if is_baba else 'ABBA'}"
        where = f"generated row {index}"
        rows.append(
            encode_row(tokenizer, clean, corrupted, f" {answer}", f" {giver}", where, group)
        )
    return Task(BuiltInTask.IOI, CircuitMetric.LOGIT_DIFFERENCE, tuple(rows))


def _keep_single(tokenizer: Tokenizer, words: Sequence[str], fewest: int) -> list[str]:
    """Return the words that are one token after a space; raises `TaskError` if below `fewest`."""
    kept = [word for word in words if len(encode_part(tokenizer, f" {word}")) == 1]
    if len(kept) < fewest:
        raise TaskError(
            f"only {len(kept)} of {words[0]}, {words[1]}, … are single tokens, {fewest} are "
            "needed; give a file of your own rows for this tokenizer"
        )
    return kept
