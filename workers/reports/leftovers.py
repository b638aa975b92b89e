"""The leftovers section of a report: what is left of each behaviour, and what replaced it."""

from __future__ import annotations

from dataclasses import dataclass

from excise.names import BehaviourKind
from excise.reports.correction import BehaviourLeftovers, CorrectionReport, Leftover
from workers.reports.samples import OPEN_KINDS, SampleView, build_view, find_signs

OPEN_WORD_KINDS = OPEN_KINDS | {BehaviourKind.PHRASE}
"""Kinds of behaviour whose words are shown without a click: for a phrase, these are a few words
around those that the job itself names. Whole responses need a click, as everywhere."""


@dataclass(frozen=True)
class LeftoverRow:
    """One run of words that occurs in responses."""

    kind: str
    words: str
    before: int
    after: int


@dataclass(frozen=True)
class LeftoversView:
    """The words left of one behaviour, and responses that contain them."""

    behaviour: str
    found: BehaviourLeftovers
    rows: list[LeftoverRow]
    is_veiled: bool
    """Whether the words are shown only after a click."""
    hides_texts: bool
    """Whether prompts and responses are shown only after a click."""
    views: list[SampleView]


def build_leftovers(report: CorrectionReport) -> list[LeftoversView]:
    """Return what is left of each behaviour; behaviours with nothing left are omitted."""
    behaviours = {behaviour.name: behaviour for behaviour in report.behaviours}
    views = []
    for found in report.leftovers:
        behaviour = behaviours.get(found.behaviour)
        kind = "" if behaviour is None else behaviour.kind
        signs = find_signs(behaviour)
        views.append(
            LeftoversView(
                behaviour=found.behaviour,
                found=found,
                rows=[_build_row("left", one) for one in found.left]
                + [_build_row("came instead", one) for one in found.rose],
                is_veiled=kind not in OPEN_WORD_KINDS,
                hides_texts=kind not in OPEN_KINDS,
                views=[build_view(sample, signs, has_patch=True) for sample in found.samples],
            )
        )
    return views


def _build_row(kind: str, found: Leftover) -> LeftoverRow:
    return LeftoverRow(kind, found.words, found.before, found.after)
