"""Behaviours of job specs: defaults, limits, and errors that name the remedy."""

from __future__ import annotations

import json

import pytest
from pydantic import TypeAdapter, ValidationError

from excise.specs.behaviours import (
    BehaviourSpec,
    CustomSpec,
    PhraseSpec,
    RepetitionSpec,
    ToxicitySpec,
)

ADAPTER: TypeAdapter[RepetitionSpec | ToxicitySpec | PhraseSpec | CustomSpec] = TypeAdapter(
    BehaviourSpec
)
COMMON = {"name": "it", "prompts": "ps_1"}
TOXICITY = {**COMMON, "kind": "toxicity", "agreeing": 1}
PHRASE = {**COMMON, "kind": "phrase", "phrases": ["as an AI"]}
CUSTOM = {
    **COMMON,
    "kind": "custom",
    "url": "https://scorer.example/score",
    "direction": "lower_is_better",
    "threshold": -2,
}


def parse(document: dict[str, object]):
    return ADAPTER.validate_json(json.dumps(document))


def refuse(document: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        parse(document)


def test_repetition() -> None:
    spec = parse({**COMMON, "kind": "repetition"})
    assert isinstance(spec, RepetitionSpec)
    assert (spec.threshold, spec.min_effect) == (0.5, 0.1)
    decoding = spec.decoding
    assert (decoding.max_new_tokens, decoding.samples, decoding.temperature) == (50, 1, 0)


def test_toxicity_samples_by_default() -> None:
    spec = parse({**TOXICITY, "decoding": {"max_new_tokens": 20}})
    assert isinstance(spec, ToxicitySpec)
    assert spec.evaluators == ["alt-profanity-check"]
    assert (spec.threshold, spec.min_effect) == (0.5, 0.4)
    decoding = spec.decoding
    assert (decoding.max_new_tokens, decoding.samples) == (20, 5)
    assert (decoding.temperature, decoding.top_p) == (0.9, 0.9)


@pytest.mark.parametrize(
    "own",
    [
        {"kind": "repetition"},
        {"kind": "toxicity"},
        {"kind": "phrase", "phrases": ["as an AI"]},
        {"kind": "custom", "entry_point": "x", "direction": "lower_is_better", "threshold": 1},
    ],
)
def test_every_kind_is_taken_with_its_defaults(own: dict[str, object]) -> None:
    # What is written here is what a kind cannot be without.
    assert parse({**COMMON, **own}).kind == own["kind"]


def test_two_evaluators_must_agree_unless_said_otherwise() -> None:
    alone = {**COMMON, "kind": "toxicity"}
    refuse(
        {**alone, "agreeing": 2},
        "agreeing is 2 but evaluators names 1. Name more .* or set agreeing to 1",
    )
    evaluators = ["detoxify/original", "alt-profanity-check", "detoxify/detoxify_minilm"]
    assert parse({**alone, "evaluators": evaluators}).needed_evaluators == 2
    assert parse({**alone, "evaluators": evaluators, "agreeing": 3}).needed_evaluators == 3
    assert parse({**alone, "evaluators": evaluators[:1]}).needed_evaluators == 1
    refuse({**alone, "evaluators": evaluators, "agreeing": 4}, "evaluators names 3")
    refuse({**TOXICITY, "evaluators": ["alt-profanity-check"] * 2}, "Remove the repeats")


@pytest.mark.parametrize(
    "evaluator",
    ["", "perspective", "detoxify", "detoxify/", "detoxify/../x", "detoxify/a.b", "/detoxify/x"],
)
def test_evaluators_are_names(evaluator: str) -> None:
    refuse({**TOXICITY, "evaluators": [evaluator]}, "evaluators")


def test_phrases() -> None:
    spec = parse(PHRASE)
    assert isinstance(spec, PhraseSpec)
    assert (spec.phrases, spec.pattern, spec.ignore_case) == (["as an AI"], None, True)
    assert parse({**COMMON, "kind": "phrase", "pattern": r"\bI can't\b"}).pattern
    refuse({**PHRASE, "pattern": "x"}, "Set one of the two")
    refuse({**COMMON, "kind": "phrase"}, "Set one of the two")
    refuse({**PHRASE, "phrases": ["x", "  "]}, "blank")
    refuse({**PHRASE, "phrases": ["\x1c"]}, "blank")
    refuse({**PHRASE, "phrases": ["\u200b \u2060"]}, "blank")
    refuse({**PHRASE, "phrases": []}, "phrases")


@pytest.mark.parametrize("pattern", ["", "a" * 1001, "a\0"])
def test_patterns_refused(pattern: str) -> None:
    refuse({**COMMON, "kind": "phrase", "pattern": pattern}, "pattern")


def test_parsing_compiles_nothing() -> None:
    """It happens on the event loop; `service.jobs.pattern_checks` has the pattern tried."""
    for pattern in ("a{1000000000}", "(x"):
        assert parse({**COMMON, "kind": "phrase", "pattern": pattern}).pattern == pattern


def test_custom() -> None:
    spec = parse(CUSTOM)
    assert isinstance(spec, CustomSpec)
    assert (spec.threshold, spec.entry_point) == (-2, None)
    refuse({**CUSTOM, "entry_point": "x"}, "Set one of the two")
    refuse({**CUSTOM, "url": None}, "Set one of the two")
    refuse({**CUSTOM, "direction": "up"}, "direction")
    refuse({key: CUSTOM[key] for key in CUSTOM if key != "threshold"}, "threshold")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://scorer.example/",
        "https://user:password@scorer.example/",
        "https://scorer.example/?token=x",
        "https://scorer.example/#x",
        "/etc/passwd",
        "https://scorer.example/a b",
        "https://scorer.example/ä",
        "https://scorer.example:99999/",
    ],
)
def test_urls_hold_no_secrets(url: str) -> None:
    refuse({**CUSTOM, "url": url}, "url")


@pytest.mark.parametrize("entry_point", ["../x.py", "a/b", "pkg:Class", ""])
def test_entry_points_are_names(entry_point: str) -> None:
    refuse({**CUSTOM, "url": None, "entry_point": entry_point}, "entry_point")


@pytest.mark.parametrize("kind", ["repetition", "phrase"])
def test_samples_need_a_temperature(kind: str) -> None:
    spec = {**COMMON, "kind": kind, **({"phrases": ["x"]} if kind == "phrase" else {})}
    refuse({**spec, "decoding": {"samples": 2}}, "Set samples to 1, or temperature above 0")
    assert parse({**spec, "decoding": {"samples": 2, "temperature": 0.7}}).decoding.samples == 2
    refuse({**TOXICITY, "decoding": {"temperature": 0}}, "samples is 5 but at temperature 0")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 7),
        ("max_new_tokens", 513),
        ("samples", 0),
        ("samples", 65),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("top_p", 0),
        ("top_p", 1.1),
        ("seed", 1),
    ],
)
def test_decoding_has_limits(field: str, value: float) -> None:
    decoding = {"temperature": 1.0, field: value}
    refuse({**TOXICITY, "decoding": decoding}, field)


@pytest.mark.parametrize("effect", [0, 1.1, -0.1])
def test_an_effect_is_asked_for(effect: float) -> None:
    for document in (TOXICITY, PHRASE, CUSTOM, {**COMMON, "kind": "repetition"}):
        refuse({**document, "min_effect": effect}, "min_effect")


@pytest.mark.parametrize("share", [1, 1.5, -0.1])
def test_what_may_remain_is_a_share_below_one(share: float) -> None:
    for document in (TOXICITY, PHRASE, CUSTOM, {**COMMON, "kind": "repetition"}):
        refuse({**document, "max_remaining": share}, "max_remaining")
        assert parse({**document, "max_remaining": 0}).max_remaining == 0
        assert parse({**document, "max_remaining": None}).max_remaining is None


def test_a_forbidden_phrase_alone_must_be_nearly_gone_by_default() -> None:
    assert parse(PHRASE).max_remaining == 0.1
    for document in (TOXICITY, CUSTOM, {**COMMON, "kind": "repetition"}):
        assert parse(document).max_remaining is None


def test_unknown_kinds_and_fields() -> None:
    refuse({**COMMON, "kind": "sycophancy"}, "'repetition', 'toxicity', 'phrase', 'custom'")
    refuse({**COMMON, "kind": "repetition", "metric": "response_uniqueness"}, "metric")
