"""The greater-than task: a span of years must end later than it starts."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from excise.names import BuiltInTask, CircuitMetric
from workers.circuits.tasks import Task, TaskError, TaskRow, encode_pair
from workers.models.encoding import encode_text
from workers.models.tokenizer import Tokenizer

NOUNS = ("siege", "drought", "voyage", "treaty", "reign", "strike", "famine", "project")
CENTURIES = tuple(range(11, 20))
EARLIEST = 1
"""Last two digits of the start year in corrupted prompts, so that almost any end is later."""

_SENTENCE = "The {noun} went on from the year {century}{start:02d} to the year {century}"
_DIGITS = 10
_YEARS = 100


def generate_greater_than(tokenizer: Tokenizer, count: int, seed: int) -> Task:
    """Return `count` rows: sentences whose span starts in year 20 to 79 of a century.

    If the tokenizer encodes two digits as one token, the right answers are all later years. If it
    encodes digit by digit, they are the larger tens digits; the equal digit leaves the year open
    and counts neither as right nor as wrong. Raises `TaskError` if the tokenizer does neither.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    rows: list[TaskRow] = []
    for index in range(count):
        noun, century = NOUNS[draw(0, len(NOUNS))], CENTURIES[draw(0, len(CENTURIES))]
        start = draw(20, 80)
        clean = _SENTENCE.format(noun=noun, century=century, start=start)
        corrupted = _SENTENCE.format(noun=noun, century=century, start=EARLIEST)
        rows.append(_encode(tokenizer, clean, corrupted, start, f"generated row {index}"))
    return Task(BuiltInTask.GREATER_THAN, CircuitMetric.PROBABILITY_DIFFERENCE, tuple(rows))


def _encode(tokenizer: Tokenizer, clean: str, corrupted: str, start: int, where: str) -> TaskRow:
    clean_ids, corrupted_ids = encode_pair(tokenizer, clean, corrupted, where)
    years = _find_following(tokenizer, clean, clean_ids, 2)
    if len(years) == _YEARS:
        answers = tuple(years[year] for year in range(start + 1, _YEARS))
        wrong = tuple(years[year] for year in range(start + 1))
    else:
        digits, tens = _find_following(tokenizer, clean, clean_ids, 1), start // _DIGITS
        if len(digits) < _DIGITS:
            raise TaskError(
                f"{where}: this tokenizer writes years neither as two digits nor digit by "
                "digit; choose another task for it"
            )
        answers = tuple(digits[digit] for digit in range(tens + 1, _DIGITS))
        wrong = tuple(digits[digit] for digit in range(tens))
    return TaskRow(clean_ids, corrupted_ids, answers, wrong)


def _find_following(
    tokenizer: Tokenizer, prompt: str, prompt_ids: tuple[int, ...], width: int
) -> Mapping[int, int]:
    """Return number → token id, for numbers of `width` digits that are one token after `prompt`."""
    found: dict[int, int] = {}
    for number in range(_DIGITS**width):
        ids = encode_text(tokenizer, f"{prompt}{number:0{width}d}")
        if len(ids) == len(prompt_ids) + 1 and ids[:-1] == prompt_ids:
            found[number] = ids[-1]
    return found
