"""The unmet gates of a report as workflow commands, which GitHub shows as annotations."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from excise.reports.reading import Report
from excise.reports.text import sentence, visible_text
from excise.reports.wording import describe_gate

MOST_ANNOTATIONS = 10
"""Largest number of errors per step that GitHub shows."""

_ESCAPES = {"%": "%25", "\r": "%0D", "\n": "%0A"}
_IN_PROPERTIES = _ESCAPES | {":": "%3A", ",": "%2C"}


def list_annotations(report: Report, clean: Callable[[str], str] = str) -> Iterator[str]:
    """Yield an `::error` line for each unmet gate; if there are too many, one for all the rest.

    Text of a gate can neither end its line nor begin another command. `clean` removes secrets.
    """
    unmet = [gate for gate in report.gates if not gate.is_met]
    shown = unmet if len(unmet) <= MOST_ANNOTATIONS else unmet[: MOST_ANNOTATIONS - 1]
    for gate in shown:
        texts = (gate.sentence, describe_gate(gate), gate.remedy or "")
        message = " ".join(sentence(text) for text in texts if text)
        yield _command(f"Excise: {gate.name}", message, clean)
    if len(shown) < len(unmet):
        rest = f"{len(unmet) - len(shown)} more gates are not met; the report lists them."
        yield _command("Excise", rest, clean)


def _command(title: str, message: str, clean: Callable[[str], str]) -> str:
    name = _escape(visible_text(clean(title)), _IN_PROPERTIES)
    return f"::error title={name}::{_escape(visible_text(clean(message)), _ESCAPES)}"


def _escape(text: str, escapes: dict[str, str]) -> str:
    return "".join(escapes.get(character, character) for character in text)
