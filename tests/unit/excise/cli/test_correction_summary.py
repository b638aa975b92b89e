"""A correction's report at the terminal: verdict, headline figures, failed gates, safe texts."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from excise.cli.report_summary import print_report
from excise.reports import ReportError, read_report
from tests.unit.excise.cli.fake_service import build_report


def show(report: dict[str, Any]) -> str:
    file = io.StringIO()
    print_report(read_report(json.dumps(report).encode()), Console(file=file, width=160))
    return file.getvalue()


def test_every_behaviour_s_headline_by_every_evaluator_with_its_control() -> None:
    text = show(build_report("passed"))
    assert text.index("PASSED") < text.index("What changed")
    for label in (
        "toxicity: share of responses, detoxify/small, held-out prompts (20)",
        "toxicity: share of responses, profanity, held-out prompts (20)",
        "loops: mean score, rur, held-out prompts (20)",
    ):
        assert label in text
    assert text.count("a random selection instead (3 draws)") == 3
    assert text.count("effect beyond the random selection") == 3
    assert "-0.213 (95 % interval -0.400 to +0.600)" in text
    assert text.count("this behaviour alone") == 3
    assert "-0.200 (95 % interval -0.400 to +0.600)" in text
    assert "+0.013" in text
    assert "-0.193" in text
    assert text.count("0.777") == 3  # the mean score is the headline of one behaviour alone
    for figure in ("20.00", "20.20", "+1.00%", "0.0100", "12 of 46080"):
        assert figure in text


def test_gates_that_were_not_met_are_listed_and_the_others_counted() -> None:
    text = show(build_report("rejected"))
    assert "Gates: 1 of 2 met." in text
    assert "it is close" in text
    assert "not measured: no  text" in text
    assert "it helps" not in text
    report = build_report("passed")
    report["gates"] = report["gates"][:1]
    assert "Gates not met" not in show(report)


def test_answers_that_were_cut_off_are_counted() -> None:
    use = {"subject": "lo\x1bops", "max_new_tokens": 64, "responses": 40, "before": 3, "after": 12}
    use |= {"length_before": 30.0, "length_after": 41.0}
    text = show(build_report("passed") | {"token_limits": [use]})
    text = " ".join(text.split())
    assert "lo ops: 12 of 40 at 64 tokens, 3 of the base's; mean length 41.0, the base's" in text
    assert "token limit" not in show(build_report("passed"))


def test_texts_that_may_offend_stay_in_the_files() -> None:
    text = show(build_report("passed"))
    assert "toxicity prompt" not in text
    assert "loops prompt 2" in text
    assert "loops prompt 4" not in text
    assert "are in report.html" in text


def test_a_job_that_ended_early_is_shown_without_figures() -> None:
    report = build_report("no_effect") | {"damage": None, "patch": None, "gates": []}
    for behaviour in report["behaviours"]:
        for evaluator in behaviour["evaluators"]:
            for measure in evaluator["measures"]:
                measure |= dict.fromkeys(("held_out", "random_control", "effect", "alone"))
    text = show(report)
    assert "NO EFFECT" in text
    assert text.count("not measured") == 3
    assert "no patch" in text
    assert "Gates" not in text


def test_names_from_outside_move_no_cursor() -> None:
    report = build_report("passed")
    behaviour = report["behaviours"][0]
    behaviour["name"] = "\x1b[2Jtox"
    behaviour["evaluators"][0]["evaluator"] = "\x9bred"
    assert "\x1b" not in show(report)
    assert "\x9b" not in show(report)


@pytest.mark.parametrize("part", ["headline", "measure"])
def test_figures_that_nobody_knows_are_not_shown(part: str) -> None:
    report = build_report("passed")
    behaviour = report["behaviours"][0]
    if part == "headline":
        behaviour["headline"] = "\x1b[31mshare"
    else:
        behaviour["evaluators"][0]["measures"][0]["name"] = "\x1b[31mshare"
    with pytest.raises(ReportError, match="not a report of a version known here") as caught:
        show(report)
    assert "\x1b" not in caught.value.message


def test_a_report_from_before_the_effect_was_said_is_shown() -> None:
    report = build_report("passed") | {"schema_version": 2}
    for behaviour in report["behaviours"]:
        for evaluator in behaviour["evaluators"]:
            for measure in evaluator["measures"]:
                del measure["effect"]
    text = show(report)
    assert "-0.200 (95 % interval" in text
    assert "beyond" not in text


def test_a_report_of_another_version_is_no_traceback() -> None:
    with pytest.raises(ReportError, match="schema version 1; this version of Excise reads 2 and 3"):
        show(build_report("passed") | {"schema_version": 1})


def leave(behaviour: str) -> dict[str, Any]:
    """What is left of a behaviour, as the workers write it."""
    return {
        "behaviour": behaviour,
        "responses": 43,
        "left": [{"words": "also\x1b states", "before": 38, "after": 37, "p_value": 0.01}],
        "rose": [{"words": "brass monkey", "before": 0, "after": 36, "p_value": 0.01}],
        "pattern": r"also\W+[states]",
        "advice": "widen it",
        "samples": [build_report("passed")["samples"][-1] | {"prompt": "leftover prompt"}],
    }


def test_what_is_left_and_what_came_instead_is_listed() -> None:
    text = show(build_report("passed") | {"leftovers": [leave("loops")]})
    for figure in ("also", "states", "brass monkey", "38", "37", "36", "43 responses"):
        assert figure in text
    assert r"widen it: also\W+[states]" in text
    assert "leftover prompt" in text
    assert "\x1b" not in text


def test_of_a_phrase_the_words_are_listed_and_no_response() -> None:
    report = build_report("passed") | {"leftovers": [leave("slogan")]}
    report["behaviours"][0] |= {"name": "slogan", "kind": "phrase"}
    text = show(report)
    assert "brass monkey" in text
    assert "leftover prompt" not in text


def test_of_other_kinds_what_is_left_is_counted() -> None:
    text = show(build_report("passed") | {"leftovers": [leave("toxicity")]})
    assert "toxicity: 2 runs of words are left, or came instead, in up to 37 of 43" in text
    assert "brass" not in text
    assert "states" not in text


def test_remedies_of_unmet_gates_and_advice_are_told() -> None:
    report = build_report("rejected") | {"advice": ["try larger amounts\x1b"]}
    for gate in report["gates"]:
        gate["remedy"] = f"mend {gate['name']}"
    text = show(report)
    assert "mend kl" in text
    assert "mend effect" not in text
    assert "try larger amounts" in text


def build_ability(sentence: str, before: float, after: float, **changes: object) -> dict[str, Any]:
    return {
        "name": "slice",
        "area": "copying",
        "sentence": sentence,
        "items": 60,
        "nats_before": 1.0,
        "nats_interval": [0.0, 0.02],
        "accuracy_interval": [-0.05, 0.0],
        "nats_change": 0.01,
        "accuracy_before": before,
        "accuracy_after": after,
        "max_nats_rise": 0.1,
        "max_accuracy_fall": 0.05,
        "is_gated": True,
        "within": True,
        **changes,
    }


def test_each_area_s_worst_ability_and_what_is_lost() -> None:
    abilities = [
        build_ability("repeat words", 0.9, 0.9),
        build_ability("quote", 0.8, 0.78),
        build_ability("count on", 1.0, 0.0, area="structure", within=False, nats_change=2.1),
        build_ability("write\x1b[2J JSON", 0.5, 0.5, area="structure"),
        build_ability("sing", 0.05, 0.0, area="language", is_gated=False),
    ]
    text = show(build_report("rejected") | {"abilities": abilities})
    table = text[text.index("Abilities") : text.index("Gates:")]
    assert "\x1b" not in text
    assert "2 of 2" in table
    assert "1 of 2" in table
    assert "80 % → 78 %" in table
    assert "repeat words" not in table
    assert "Lost: “count on” (100 % → 0 % right, +2.10 nats a token)." in table
    assert "the base can hardly do it: sing." in table


def test_abilities_that_are_kept_are_one_sentence_and_none_are_no_table() -> None:
    kept = [build_ability("quote", 0.8, 0.78), build_ability("sing", 0.9, 0.9)]
    text = show(build_report("passed") | {"abilities": kept})
    assert "All 2 abilities are within their limits; the nearest to its limit is “quote”" in text
    assert "Abilities" not in show(build_report("passed"))


def test_an_unmet_gate_says_its_note() -> None:
    report = build_report("rejected")
    report["gates"][1]["note"] = "the model can no longer\x1b[31m count on"
    report["gates"][0]["note"] = "not to be seen"
    text = show(report)
    assert "the model can no longer" in text
    assert "\x1b" not in text
    assert "not to be seen" not in text
