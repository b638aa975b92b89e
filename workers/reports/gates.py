"""The gates section of a report: gates grouped by what they watch, all numbers with units."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from excise.names import GateBound, GateGroup
from excise.reports.gates import GateResult
from excise.reports.text import format_compact, format_percent, format_share, title

_HEADINGS = {
    GateGroup.EFFECT: "Effect: does it do what it is for?",
    GateGroup.DAMAGE: "Damage: does everything else still work?",
    GateGroup.SAFETY: "Safety: is it neither more harmful nor more squeamish?",
    None: "",
}
_SIGNS = {GateBound.AT_MOST: "≤ ", GateBound.AT_LEAST: "≥ ", GateBound.ABOVE: "> ", None: ""}
_NOT_SAID = "nothing was measured"
_SHARE = "share"
_CHANGE, _FALL = "relative", "relative fall"
_UNWRITTEN = frozenset({"", _CHANGE, _FALL, "ratio", "score"})
"""Units that are not written, because the number shows them or has none."""


@dataclass(frozen=True)
class GateRow:
    """One gate, formatted for readers."""

    name: str
    sentence: str
    limit: str
    value: str
    """Empty if it was not measured."""
    interval: str
    change: str
    """`before → after`; empty if the gate has no such figures."""
    count: int | None
    is_met: bool
    """Whether it was measured and met; a gate that was not measured is not met."""
    unmeasured: str
    """Why there is no value; empty if there is one."""
    note: str
    """A note that helps to judge the value; may be empty."""
    remedy: str
    """Likely cause and what to do; empty if the gate is met."""


@dataclass(frozen=True)
class GateGroupView:
    """The gates of one group."""

    heading: str
    rows: list[GateRow]


def build_gate_groups(gates: Sequence[GateResult]) -> list[GateGroupView]:
    """Return the gates by group, each in the report's order; empty groups are left out."""
    groups = [
        GateGroupView(heading, [_build_row(gate) for gate in gates if gate.group is group])
        for group, heading in _HEADINGS.items()
    ]
    return [group for group in groups if group.rows]


def list_failed(gates: Sequence[GateResult]) -> list[GateRow]:
    """Return the gates that were not met, in the report's order."""
    return [row for row in map(_build_row, gates) if not row.is_met]


def _build_row(gate: GateResult) -> GateRow:
    is_measured = gate.value is not None
    return GateRow(
        name=name_gate(gate.name),
        sentence=gate.sentence,
        limit=f"{_SIGNS[gate.bound]}{_format(gate.limit, gate.unit, is_limit=True)}",
        value="" if gate.value is None else _format(gate.value, gate.unit),
        interval=_format_interval(gate),
        change=_format_change(gate),
        count=gate.count,
        is_met=gate.passed and is_measured,
        unmeasured="" if is_measured else gate.unmeasured or _NOT_SAID,
        note=gate.note or "",
        remedy=gate.remedy or "",
    )


def name_gate(identifier: str) -> str:
    """Return a gate's name for readers: `toxicity.held_out` becomes `Toxicity: held-out`."""
    owner, separator, own = re.split(r"([.:]|$)", identifier, maxsplit=1)
    if not separator:
        return title(owner)
    name = title(own)
    return f"{title(owner)}: {name if name[1:2].isupper() else name[:1].lower() + name[1:]}"


def _format_interval(gate: GateResult) -> str:
    if gate.ci_low is None or gate.ci_high is None:
        return ""
    return f"{_write(gate.ci_low, gate.unit)} to {_write(gate.ci_high, gate.unit)}"


def _format_change(gate: GateResult) -> str:
    if gate.before is None or gate.after is None:
        return ""
    write = format_share if _is_share(gate.unit) else format_compact
    return f"{write(gate.before)} → {write(gate.after)}"


def _format(value: float, unit: str, *, is_limit: bool = False) -> str:
    """Return a number with its unit: relative changes and shares in per cent, ratios with ×.

    Only a change has the sign +: a fall of 20 % is not to be taken for a rise.
    """
    written = _write(value, unit, is_limit=is_limit)
    if _is_share(unit):
        return written + unit.removeprefix(_SHARE)
    return written if unit in _UNWRITTEN else f"{written} {unit}"


def _write(value: float, unit: str, *, is_limit: bool = False) -> str:
    """Return a number without its unit."""
    if unit in (_CHANGE, _FALL):
        shows_sign = unit == _CHANGE and not is_limit
        return format_percent(value) if shows_sign else format_share(value, 2)
    if _is_share(unit):
        return format_share(value)
    return f"{format_compact(value)}{'×' if unit == 'ratio' else ''}"


def _is_share(unit: str) -> bool:
    """Return whether a unit is a share of something, such as `share of prompts`."""
    return unit.startswith(_SHARE)
