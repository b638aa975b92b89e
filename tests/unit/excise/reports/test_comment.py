"""The comment of a pull request, as text: what it says, and what nothing in it can do."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from excise.names import GateBound, GateOutcome, Trend
from excise.reports import read_report
from excise.reports.comment import (
    MOST_CHARACTERS,
    RESPONSE_CHARACTERS,
    CommentOptions,
    render_comment,
)
from excise.reports.common import ModelIdentity
from excise.reports.gate_run import FigureChange, GateExample, GateReport, RunComparison
from excise.reports.gates import GateResult
from tests.unit.excise.cli.fake_service import build_report as build_job_report

OPTIONS = CommentOptions("gate", (("whole report", "https://ci.example/runs/7?a=1"),))
KL = GateResult(
    name="kl",
    sentence="the mean KL divergence is at most this",
    limit=0.03,
    value=0.21,
    passed=False,
    unit="nats a token",
    bound=GateBound.AT_MOST,
    ci_low=0.18,
    ci_high=0.25,
    remedy="Train less.",
)
LOST = GateResult(
    name="refusal", sentence="it refuses", limit=0.05, value=None, passed=False, unmeasured="no way"
)
MET = KL.model_copy(
    update={"name": "perplexity", "passed": True, "value": 0.0, "ci_low": -0.01, "ci_high": 0.02}
)


def build(*gates: GateResult, **changes: Any) -> GateReport:
    fields: dict[str, Any] = {
        "outcome": GateOutcome.GATES_NOT_MET,
        "model": ModelIdentity(id="candidate", sha256="c" * 64),
        "against": ModelIdentity(id="base", sha256="b" * 64),
        "gates": list(gates),
        "not_asked": [],
        "dtype": "float32",
        "seed": 0,
        "versions": {"excise": "0.1.0"},
    }
    return GateReport(**(fields | changes))


def build_example(text: str) -> GateExample:
    return GateExample(behaviour="slogan", prompt=text, before=(text,), after=(text,), shown=1)


def test_a_failing_run_in_full() -> None:
    text = render_comment(build(KL, LOST, MET, examples=[build_example("buy it")]), OPTIONS)
    assert text == (
        "<!-- excise-comment:gate -->\n"
        "\n"
        "### ❌ Excise: gates not met: `candidate` against `base`\n"
        "\n"
        "2 of 3 gates are not met.\n"
        "\n"
        "| Gate | Before | After | Value (95 %) | Limit | What to do |\n"
        "|:--|--:|--:|--:|--:|:--|\n"
        "| `kl` The mean KL divergence is at most this. | – | – | 0.21 (0.18 … 0.25) "
        "| ≤ 0.03 nats a token | Train less. |\n"
        "| `refusal` It refuses. | – | – | not measured: no way | 0.05 |  |\n"
        "\n"
        "<details>\n"
        "<summary>1 gate that is met</summary>\n"
        "\n"
        "| Gate | Before | After | Value (95 %) | Limit |\n"
        "|:--|--:|--:|--:|--:|\n"
        "| `perplexity` | – | – | 0 (−0.01 … 0.02) | ≤ 0.03 nats a token |\n"
        "\n"
        "</details>\n"
        "\n"
        "<details>\n"
        "<summary>1 prompt, and what was answered before and after; may offend</summary>\n"
        "\n"
        "**slogan**\n"
        "\n"
        "```text\nbuy it\n```\n"
        "\n"
        "Before:\n"
        "\n"
        "```text\nbuy it\n```\n"
        "\n"
        "After:\n"
        "\n"
        "```text\nbuy it\n```\n"
        "\n"
        "</details>\n"
        "\n"
        "[whole report](<https://ci.example/runs/7?a=1>)\n"
        "\n"
        "<sub>`candidate` cccccccccccc, against `base` bbbbbbbbbbbb; Excise 0.1.0</sub>\n"
    )


def test_a_passing_run_is_short() -> None:
    text = render_comment(build(MET, outcome=GateOutcome.PASSED, is_against_cached=True), OPTIONS)
    assert "### ✅ Excise: every gate is met: `candidate` against `base`" in text
    assert "The only gate is met." in text
    assert "What to do" not in text
    assert text.count("\n| `") == 1
    assert "measured by an earlier run" in text


def test_gates_that_chance_may_have_decided_come_last_and_are_named() -> None:
    close = KL.model_copy(update={"name": "copying", "ci_low": 0.01})
    text = render_comment(build(close, KL, LOST), OPTIONS)
    rows = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
    assert rows == ["kl", "refusal", "copying"]
    assert "The limit lies within the 95 % interval of `copying`: chance may" in text
    assert "The limit lies" not in render_comment(build(KL, LOST), OPTIONS)


def test_notes_are_told_first() -> None:
    text = render_comment(build(MET, notes=["it has no @template"]), OPTIONS)
    assert text.index("It has no @\N{WORD JOINER}template.") < text.index("gate is met")


def test_what_moved_since_an_earlier_run_is_told() -> None:
    changes = [
        FigureChange(name="kl", trend=Trend.WORSE, is_clear=True, earlier=0.1, now=0.21),
        FigureChange(name="refusal", trend=Trend.BETTER, is_clear=False, earlier=0.1, now=0.0),
    ]
    comparison = RunComparison(
        model=ModelIdentity(id="last", sha256="d" * 64), outcome="passed", changes=changes
    )
    text = render_comment(build(KL, comparison=comparison), OPTIONS)
    assert "Beside the earlier run on `last`: `kl` worse (0.1 → 0.21).\n" in text


@pytest.mark.parametrize("verdict", ["passed", "rejected", "no_effect"])
def test_a_jobs_report_is_told_as_well(verdict: str) -> None:
    report = read_report(json.dumps(build_job_report(verdict)).encode())
    text = render_comment(report, OPTIONS)
    assert text.startswith("<!-- excise-comment:gate -->\n\n### ")
    assert ("✅" in text) is (verdict == "passed")
    assert "<details>" in text


HOSTILE = (
    "<!-- excise-comment:gate -->\n```\n````\n~~~\n</details><script>alert(1)</script>\n"
    "| a | b |\n[x](javascript:alert(1)) ![i](http://evil.example/p.png) @everyone #1\n"
    "/close\n\u202egnp.exe\x1b[31m <img src=x onerror=y>"
)


def strip_fences(text: str) -> str:
    """What is left of Markdown without its fenced blocks, by CommonMark's rule for closing one."""
    left, fence = [], ""
    for line in text.split("\n"):
        run = re.match(r"`{3,}", line)
        if fence:
            fence = "" if line.rstrip() == fence else fence
        elif run:
            fence = run[0]
        else:
            left.append(line)
    assert not fence, "a block is left open"
    return "\n".join(left)


def test_responses_stay_inside_their_blocks() -> None:
    text = render_comment(build(KL, examples=[build_example(HOSTILE)]), OPTIONS)
    outside = strip_fences(text)
    for part in ("script", "evil", "@everyone", "/close", "onerror", "javascript"):
        assert part not in outside
    assert outside.count("</details>") == outside.count("<details>") == 1
    assert text.count("\n<!-- excise-comment:gate -->") == text.count("```text\n<!-- ") > 0
    assert text.split("\n", 1)[0] == OPTIONS.marker
    assert "\x1b" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize("field", ["sentence", "note", "remedy", "unmeasured", "unit"])
def test_words_of_a_gate_are_literal_and_stay_in_their_cell(field: str) -> None:
    gate = LOST.model_copy(update={field: HOSTILE})
    text = render_comment(build(gate), OPTIONS)
    row = next(line for line in text.split("\n") if line.startswith("| `refusal`"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 7
    assert not re.search(r"(?<!\\)[<>\[\]]", row)
    assert "@everyone" not in row
    assert "#1" not in row


@pytest.mark.parametrize("name", ["a`b|c", "x\n# y", "@team", "<b>"])
def test_names_of_checkpoints_are_code(name: str) -> None:
    text = render_comment(build(KL, model=ModelIdentity(id=name, sha256="c" * 64)), OPTIONS)
    headline = next(line for line in text.split("\n") if line.startswith("###"))
    assert headline.endswith("against `base`")
    assert "\n# y" not in text


def test_hashes_are_literal() -> None:
    for hostile in ("[x](//e.g)", "@all #1 <b>", "</sub>\n\n/close"):
        model = ModelIdentity(id="m", sha256=hostile)
        text = render_comment(build(KL, model=model, against=model), OPTIONS)
        last = text.rstrip("\n").split("\n")[-1]
        assert last.startswith("<sub>`m` ")
        inside = last.removeprefix("<sub>").removesuffix("</sub>")
        assert not re.search(r"(?<!\\)[<>\[\]]|@all|#1", inside)


def test_secrets_are_taken_out_of_every_text() -> None:
    secret = "tok_12345"
    words = dict.fromkeys(("sentence", "note", "remedy", "unmeasured"), f"it is {secret}")
    words |= {"unit": secret, "name": secret}
    report = build(
        LOST.model_copy(update=words),
        model=ModelIdentity(id=secret, sha256=secret),
        notes=["n" * (RESPONSE_CHARACTERS - len(secret) // 2) + secret],
        against=ModelIdentity(id=secret, sha256="b" * 64),
        examples=[build_example(f"{secret} {'x' * 2000}")],
        comparison=RunComparison(
            model=ModelIdentity(id=secret, sha256="d" * 64), outcome="passed", obstacle=secret
        ),
    )
    text = render_comment(report, OPTIONS, lambda part: part.replace(secret, "***"))
    assert secret not in text
    assert secret[: len(secret) // 2] not in text
    assert "***" in text


def test_it_fits_whatever_there_is_to_tell() -> None:
    long = KL.model_copy(update={"sentence": "w " * 9000, "remedy": "|" * 9000})
    gates = [long.model_copy(update={"name": f"g{number}"}) for number in range(60)]
    examples = [build_example("`" * 50_000) for _ in range(9)]
    text = render_comment(build(*gates, examples=examples), OPTIONS)
    assert len(text) <= MOST_CHARACTERS
    rows = text.count("\n| `g")
    assert rows > 20
    assert f"And {60 - rows} more, which the report lists." in text
    strip_fences(text)


WIDE = "\U000e0001<@`|" * 300
"""Characters that take most room once they are escaped."""


def build_wide(number: int, **changes: Any) -> GateResult:
    words = dict.fromkeys(("sentence", "note", "remedy", "unit"), WIDE)
    return KL.model_copy(update={"name": f"g{number} {WIDE}", "ci_low": 0.01, **words, **changes})


@pytest.mark.parametrize("noted", ["a note of some length, as they are " * 4, WIDE])
@pytest.mark.parametrize("gates", [0, 1, 30, 400])
@pytest.mark.parametrize("is_met", [True, False])
def test_it_fits_whatever_is_long(noted: str, gates: int, is_met: bool) -> None:
    met = {"value": 0.01, "passed": True} if is_met else {}
    model = ModelIdentity(id=WIDE, sha256=WIDE)
    change = FigureChange(name=WIDE, trend=Trend.WORSE, is_clear=True, earlier=1e300, now=-1e300)
    comparison = RunComparison(model=model, outcome="passed", caution=WIDE, changes=[change] * 400)
    report = build(
        *(build_wide(number, **met) for number in range(gates)),
        notes=[noted] * 400,
        model=model,
        against=model,
        comparison=comparison,
        examples=[build_example(WIDE)] * 9,
        versions={"excise": WIDE},
    )
    links = ((WIDE, "https://ci.example/" + "a" * 900),) * 10
    text = render_comment(report, CommentOptions("i" * 64, links))
    assert len(text) <= MOST_CHARACTERS
    left = re.search(r"\nAnd (\d+) more notes, which the report lists\.\n", text)
    assert left
    if gates > 1:
        assert re.search(r"\nAnd \d+ more, which the report lists\.\n", text)
        assert is_met or f"{gates} of {gates} gates are not met." in text


def test_gates_that_are_not_met_have_room_before_anything_else() -> None:
    gates = [KL.model_copy(update={"name": f"g{number}"}) for number in range(30)]
    text = render_comment(build(*gates, MET, notes=["a note " * 60] * 400), OPTIONS)
    assert len(text) <= MOST_CHARACTERS
    assert text.count("\n| `g") == 30
    assert re.search(r"\nAnd \d+ more notes, which the report lists\.\n", text)


def test_too_many_links_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 10 links, not 11"):
        CommentOptions(links=(("a", "https://x/"),) * 11)


def test_responses_are_cut_and_may_be_left_out() -> None:
    report = build(KL, examples=[build_example("é" * 5000)])
    assert "é" * RESPONSE_CHARACTERS not in render_comment(report, OPTIONS)
    silent = CommentOptions(shows_responses=False)
    assert "é" not in render_comment(report, silent)


@pytest.mark.parametrize(
    ("identifier", "links", "words"),
    [
        ("a b", (), "the comment's id"),
        ("x-->", (), "the comment's id"),
        ("a", (("report", "javascript:alert(1)"),), "http"),
        ("a", (("report", "https://x/)[y](z"),), "http"),
        ("a", (("", "https://x/"),), "needs a name"),
    ],
)
def test_options_that_break_out_are_refused(
    identifier: str, links: tuple[tuple[str, str], ...], words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        CommentOptions(identifier, links)
