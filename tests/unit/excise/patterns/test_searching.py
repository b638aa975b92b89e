"""Expressions that cost too much are refused, the others find what regex finds."""

from __future__ import annotations

import resource
import subprocess

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from excise.patterns import searching
from excise.patterns.searching import (
    MAX_MATCHES,
    BusyError,
    Expression,
    PatternError,
    SearchError,
    check_expression,
    find_matches,
)

TEXTS = ["", "a", "ab", "ba-b", "{a}", "^a$", "aaab", "A"]


@pytest.mark.parametrize(
    "pattern",
    [
        "a{10000000}",
        "a{1000000000}",
        "(?:" * 20 + "a" + "{1,1000})" * 20,
        "(?:" * 30 + "a" + ")+" * 30,
        "(?:" * 150 + "a" + ")+?" * 150,
        "(" * 90 + "a" + "){2}" * 90,
        r"(?<=(?:a{1000}){10000})b",
        r"(?if)[\p{L}--[a-zß]]{100000000}",
    ],
)
def test_what_costs_too_much_to_compile_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError, match=r"takes more than 256 MiB or 1 s to compile\. Lower"):
        check_expression(Expression(pattern))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(x", "not a regular expression"),
        ("(?au)x", "not a regular expression"),
        (r"\1", "not a regular expression"),
        (r"\L<words>", "not a regular expression"),
        ("(" * 499 + "a" + ")" * 499, "not a regular expression"),
        ("[a--b]", "not a regular expression"),  # in `re` it is one
        ("a{99999999999999999999}", "not a regular expression"),
        ("a*", "matches an empty text"),
        ("(?:foo){e<=1000}", "matches an empty text"),
        ("(?R)", "to search an empty text"),
        ("a" * 1001, "longer than 1000 characters"),
    ],
)
def test_refused(pattern: str, message: str) -> None:
    with pytest.raises(PatternError, match=message):
        check_expression(Expression(pattern))


@pytest.mark.parametrize(
    "pattern",
    [
        r"\bI can't\b",
        r"\p{Lu}{4,}",
        r"(?:\d{1,3}\.){3}\d{1,3}",
        "(?:foo){e<=2}",
        r"(?V1)[\w--\d]{8}",
        r"\((?:[^()]|(?R))*\)",
        "|".join(f"phrase {number}" for number in range(80)),
        "a{1000}",
        "\ud800",
    ],
)
def test_taken(pattern: str) -> None:
    check_expression(Expression(pattern))


@settings(max_examples=15, deadline=None)
@given(st.text(alphabet="ab(|)*+?[]{}^$1:!-.", min_size=1, max_size=10), st.booleans())
def test_a_child_finds_what_regex_finds(pattern: str, ignore_case: bool) -> None:
    try:
        compiled = regex.compile(pattern, regex.IGNORECASE if ignore_case else 0)
    except regex.error:
        with pytest.raises(PatternError, match="not a regular expression"):
            find_matches(Expression(pattern, ignore_case), TEXTS)
    else:
        expected = [[match[0] for match in compiled.finditer(text)][:MAX_MATCHES] for text in TEXTS]
        assert find_matches(Expression(pattern, ignore_case), TEXTS) == expected


def test_the_text_that_takes_too_long_is_named() -> None:
    texts = ["aa", "a" * 60 + "b", "b"]
    with pytest.raises(SearchError) as caught:
        find_matches(Expression("(a|aa)+$"), texts, search_seconds=0.1)
    assert (caught.value.position, caught.value.what) == (1, "0.1 s")
    assert find_matches(Expression("(a|aa)+$"), texts[::2]) == [["aa"], []]


def test_a_search_that_takes_too_much_memory_is_named() -> None:
    with pytest.raises(SearchError) as caught:
        find_matches(Expression("(?R)?a"), ["", "a" * 3000], search_seconds=30)
    assert (caught.value.position, caught.value.what) == (1, "256 MiB")


def test_nothing_of_it_is_compiled_here() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PatternError):
        check_expression(Expression("a{3000000}"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024  # KiB


def test_secrets_stay_out_of_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}
    run = subprocess.run

    def watch(*arguments, **options):
        seen.update(options["env"])
        return run(*arguments, **options)

    monkeypatch.setenv("EXCISE_DATABASE_URL", "postgresql://user:secret@host/db")
    monkeypatch.setattr(subprocess, "run", watch)
    assert find_matches(Expression("b"), ["abc"]) == [["b"]]
    assert "PATH" in seen
    assert not [name for name in seen if name.startswith("EXCISE")]


def test_a_machine_without_a_free_moment_is_not_the_patterns_fault(monkeypatch) -> None:
    monkeypatch.setattr(searching, "_MAX_SECONDS", -searching.MAX_COMPILE_SECONDS - 0.99)
    with pytest.raises(BusyError):
        find_matches(Expression("b"), ["abc"])
