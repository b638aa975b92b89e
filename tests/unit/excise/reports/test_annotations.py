"""Unmet gates as workflow commands."""

from __future__ import annotations

from excise.reports.annotations import MOST_ANNOTATIONS, list_annotations
from tests.unit.excise.reports.test_comment import HOSTILE, KL, LOST, MET, build


def test_each_unmet_gate_is_an_error() -> None:
    lines = list(list_annotations(build(KL, LOST, MET)))
    assert lines == [
        "::error title=Excise%3A kl::The mean KL divergence is at most this. Value 0.21 "
        "(95 %25 0.18 … 0.25), limit ≤ 0.03 nats a token. Train less.",
        "::error title=Excise%3A refusal::It refuses. Not measured: no way.",
    ]


def test_no_text_begins_a_command_of_its_own() -> None:
    hostile = f"{HOSTILE}\n::set-output name=a::b\r\n::add-mask::x"
    gate = LOST.model_copy(update={"name": hostile, "unmeasured": hostile, "remedy": hostile})
    (line,) = list_annotations(build(gate))
    assert "\n" not in line
    assert "\r" not in line
    title = line.removeprefix("::error title=").split("::", 1)[0]
    assert ":" not in title
    assert "," not in title


def test_of_many_the_last_says_how_many_are_left() -> None:
    gates = [KL.model_copy(update={"name": f"g{number}"}) for number in range(25)]
    lines = list(list_annotations(build(*gates)))
    assert len(lines) == MOST_ANNOTATIONS
    assert lines[-1] == "::error title=Excise::16 more gates are not met; the report lists them."


def test_secrets_are_taken_out() -> None:
    gate = LOST.model_copy(update={"unmeasured": "tok_12345"})
    (line,) = list_annotations(build(gate), lambda text: text.replace("tok_12345", "***"))
    assert "tok_12345" not in line
