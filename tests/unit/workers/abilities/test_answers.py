"""Right continuations are right: numbers, JSON, rules and facts, worked out once more."""

from __future__ import annotations

import json
import re

import pytest

from tests.unit.workers.abilities.kinds import KINDS, draw, targets, told
from workers.abilities.source import Purpose

OF = {kind.name: kind for kind in KINDS}
either_purpose = pytest.mark.parametrize("purpose", list(Purpose))


@either_purpose
def test_counting_goes_up_by_one(purpose: Purpose) -> None:
    for own in draw(OF["counting"], purpose):
        numbers = [int(number) for number in re.findall(r"\d+", told(own))]
        assert numbers == list(range(numbers[0], numbers[0] + 10))
        assert [len(re.findall(r"\d+", text)) for text in targets(own)] == [2, 2]


@either_purpose
def test_multiplication_tables_are_right(purpose: Purpose) -> None:
    for own in draw(OF["times_tables"], purpose):
        for row in told(own).splitlines():
            one, two, product = map(int, re.findall(r"\d+", row))
            assert one * two == product


@either_purpose
def test_sums_are_right(purpose: Purpose) -> None:
    for own in draw(OF["sums"], purpose):
        numbers = list(map(int, re.findall(r"\d+", told(own))))
        assert len(numbers) == 12
        assert all(a + b == c for a, b, c in zip(*[iter(numbers)] * 3, strict=True))


@either_purpose
def test_json_rows_are_the_records_told_before(purpose: Purpose) -> None:
    for own in draw(OF["json"], purpose):
        records, _, rows = told(own).partition("\n\n")
        parsed = json.loads(rows.rstrip(", \n") + "]")
        assert records == ", ".join(" ".join(map(str, row.values())) for row in parsed)
        assert len({tuple(row) for row in parsed}) == 1


@either_purpose
@pytest.mark.parametrize("name", ["csv", "tables"])
def test_rows_are_the_records_told_before(name: str, purpose: Purpose) -> None:
    for own in draw(OF[name], purpose):
        records, _, rows = told(own).partition("\n\n")
        for record in records.split(", "):
            noun, number = record.split(" ")
            assert any(noun in row and number in row for row in rows.splitlines())


@either_purpose
@pytest.mark.parametrize("name", ["outlines", "refrains"])
def test_what_comes_again_was_there_before(name: str, purpose: Purpose) -> None:
    for own in draw(OF[name], purpose):
        before = ""
        for part in own.parts:
            assert not part.is_target or part.text in before
            before += part.text


@either_purpose
@pytest.mark.parametrize("name", ["keys", "facts", "long_recall", "labels"])
def test_facts_asked_for_were_given(name: str, purpose: Purpose) -> None:
    for own in draw(OF[name], purpose):
        shown = own.parts[0].text
        assert all(text.strip(" \n.,)") in shown for text in targets(own))


@either_purpose
def test_rules_are_those_of_the_examples(purpose: Purpose) -> None:
    for name, rule in (("plurals", "{}s"), ("capitals", None)):
        for own in draw(OF[name], purpose):
            for line in told(own).splitlines():
                plain = re.sub(r"becomes|gives|Input:|Output:", " ", line)
                one, two = re.findall(r"[A-Za-z]{3,}", plain)
                assert two == (rule.format(one) if rule else one.upper())


@either_purpose
def test_instructions_are_obeyed(purpose: Purpose) -> None:
    for own in draw(OF["instructions"], purpose):
        (answer,) = targets(own)
        words = re.findall(r"[a-z]+", answer)
        assert all(re.search(rf"\b{word}\b", own.user or "") for word in words)
        assert len(words) in (1, 3, 4)
        assert len(words) != 3 or len(set(words)) == 1
        assert len(words) != 4 or answer.count("\n") == 3


def test_every_language_is_in_either_half() -> None:
    from workers.abilities.languages import SENTENCES

    assert len(SENTENCES) == len(set(SENTENCES)) == 72
