"""What in a report contradicts the rest of it: verdicts, gates, slices and counts.

No version of Excise writes such a report; it was edited, or damaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from excise.names import GateOutcome, Verdict
from excise.plurals import count_noun
from excise.reports.abilities import AbilityChange
from excise.reports.circuit import CircuitReport
from excise.reports.compression import CompressionReport
from excise.reports.correction import CorrectionReport
from excise.reports.gate_run import GateReport
from excise.reports.gates import GateResult
from excise.reports.text import shorten

_NAMED = 6
"""Largest number of gates that a message names. Chosen by hand."""

_MOST_CHARACTERS = 300
"""Characters of names in a message. Chosen by hand."""

_ROUNDING = 1e-6
"""Tolerance for comparing a figure with its limit, because sums of fractions are not exact."""

_ABILITIES = "abilities"
"""Name of the gate whose value counts the slices that are not within their limits."""


def list_contradictions(
    report: CorrectionReport | CircuitReport | CompressionReport | GateReport,
) -> Iterator[str]:
    """Yield a sentence fragment for each contradiction, beginning with its field."""
    yield from _check_verdict(report)
    for number, gate in enumerate(report.gates):
        yield from _check_gate(f"gates[{number}]", gate)
    if isinstance(report, GateReport | CorrectionReport):
        yield from _check_abilities(report.gates, report.abilities)
        for number, use in enumerate(report.token_limits):
            if not (0 <= use.before <= use.responses and 0 <= use.after <= use.responses):
                yield f"token_limits[{number}] counts more answers than there are"
    if isinstance(report, CorrectionReport):
        yield from _check_patch(report)
    circuit = report.circuit if isinstance(report, CircuitReport) else None
    if circuit is not None and not 0 <= circuit.kept <= circuit.of:
        yield f"circuit.kept is {circuit.kept} of {circuit.of}"


def _check_verdict(
    report: CorrectionReport | CircuitReport | CompressionReport | GateReport,
) -> Iterator[str]:
    """A run of `excise gate` without gates has not passed; a job that asks for none has."""
    unmet = [gate.name for gate in report.gates if not gate.is_met]
    if isinstance(report, GateReport):
        is_passed = bool(report.gates) and not unmet
        if is_passed is not (report.outcome is GateOutcome.PASSED):
            yield f"outcome is {report.outcome}, and its gates are {_describe(report.gates, unmet)}"
    elif (report.verdict is Verdict.PASSED and unmet) or (
        report.verdict is Verdict.REJECTED and not unmet
    ):
        yield f"verdict is {report.verdict}, and its gates are {_describe(report.gates, unmet)}"


def _describe(gates: Sequence[GateResult], unmet: Sequence[str]) -> str:
    named = f"not met: {', '.join(unmet[:_NAMED])}" if unmet else f"{len(gates)}, all met"
    return shorten(named, _MOST_CHARACTERS)


def _check_gate(place: str, gate: GateResult) -> Iterator[str]:
    about = (
        f"{place}.passed of {shorten(gate.name, _MOST_CHARACTERS)} is {str(gate.passed).lower()}"
    )
    if gate.value is None:
        if gate.passed:
            yield f"{about}, and it has no value"
    elif gate.bound is not None and gate.passed is not gate.bound.is_met(gate.value, gate.limit):
        bound = gate.bound.replace("_", " ")
        yield f"{about}, and its value is {gate.value:g}, where {bound} {gate.limit:g} is asked for"


def _check_abilities(
    gates: Sequence[GateResult], abilities: Sequence[AbilityChange]
) -> Iterator[str]:
    for number, slice_ in enumerate(abilities):
        if slice_.within and slice_.is_gated and _is_beyond(slice_):
            name = shorten(slice_.name, _MOST_CHARACTERS)
            yield f"abilities[{number}].within of {name} is true, and it falls by more than it may"
    lost = sum(not slice_.within for slice_ in abilities)
    for number, gate in enumerate(gates):
        if gate.name == _ABILITIES and gate.value not in (None, lost):
            yield (
                f"gates[{number}].value of {_ABILITIES} is {gate.value:g}, and "
                f"{count_noun(lost, 'slice')} of abilities fell by more than they may"
            )


def _is_beyond(ability: AbilityChange) -> bool:
    """Return whether one of a slice's two figures is beyond its limit."""
    fall = ability.accuracy_before - ability.accuracy_after
    pairs = ((ability.nats_change, ability.max_nats_rise), (fall, ability.max_accuracy_fall))
    return any(limit is not None and value > limit + _ROUNDING for value, limit in pairs)


def _check_patch(report: CorrectionReport) -> Iterator[str]:
    """Reports without `counts` list no modules."""
    if (patch := report.patch) is None or not patch.counts:
        return
    if sum(patch.counts.values()) != patch.components:
        yield f"patch.components is {patch.components}, and patch.counts do not add up to it"
    if patch.modules and patch.counts != {name: len(own) for name, own in patch.modules.items()}:
        yield "patch.modules lists other components than patch.counts counts"
